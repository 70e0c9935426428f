"""`ovseg doctor`: what is installed, what is missing or damaged, and the mend."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .cli_options import JsonOption
from .cli_output import print_json, results

STYLES = {"ok": "", "warning": "yellow", "problem": "red"}


def doctor(
    run: Annotated[
        Path | None,
        typer.Option("--run", envvar="OVSEG_RUN", help="Run directory; default: ./run if there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, what is missing or damaged, and the mend."""
    from .doctor import diagnose

    findings = diagnose(run=run)
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        table = Table("what", "status", "found", "mend", title="ovseg doctor")
        for finding in findings:
            texts = (finding.name, finding.status, finding.found, finding.mend or "")
            table.add_row(*map(escape, texts), style=STYLES[finding.status])
        results.print(table)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
