"""What commands print: results on standard output, everything else on standard error."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

messages = Console(stderr=True, highlight=False)
results = Console(highlight=False)


def show_figures(title: str, figures: dict[str, Any], as_json: bool) -> None:
    """A result, as JSON or as a table."""
    if as_json:
        print_json(figures)
    else:
        show_table(title, figures)


def show_table(
    title: str, figures: dict[str, Any], name: str = "figure", value: str = "value"
) -> None:
    """A table of two columns; what lies deeper gets the names of all above it."""
    table = Table(name, value, title=escape(plain(title)) or None)
    for key, figure in _flat(figures):
        shown = f"{figure:.4g}" if isinstance(figure, float) else str(figure)
        table.add_row(escape(plain(key)), escape(plain(shown)))
    results.print(table)


def note(text: str) -> None:
    """A line for whoever looks on."""
    messages.print(plain(f"note: {text}"), markup=False, soft_wrap=True)


def plain(text: str) -> str:
    """One line without what a terminal would obey: names of files and classes may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")  # ASCII: file names may be no text at all


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows
