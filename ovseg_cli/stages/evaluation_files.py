"""The figures of an evaluation as files: metrics.json, per_class.csv, tables of their own."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg_cli.stages.scores import Results
from ovseg_cli.storage import write_json, write_text

FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def write_figures(
    folder: Path,
    what: Mapping[str, Any],
    results: Results,
    per_class: Sequence[Results],
    tables: Mapping[str, Sequence[Results]],
) -> None:
    """Writes metrics.json, per_class.csv, and a JSON file for each further table.

    Args:
        folder: of the results.
        what: what was scored and how.
        results: means by metric and group, 0 to 1.
        per_class: a row a class.
        tables: rows by the file's name without suffix; empty ones are left out.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    for file, rows in tables.items():
        if rows:
            write_json(folder / f"{file}.json", {**what, "rows": rows})
    write_json(folder / "metrics.json", {**what, "results": results})
    write_text(folder / "per_class.csv", class_csv(per_class))


def class_csv(rows: Sequence[Results]) -> str:
    """A line a class, as spreadsheets read it.

    Args:
        rows: of equal keys, `class` among them; a name that a spreadsheet would take for a formula
            gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "class": _no_formula(row["class"])} for row in rows)
    return text.getvalue()


def _no_formula(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA_BEGINNINGS) else name
