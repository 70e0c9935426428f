"""Options that several commands have, and what they mean together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

RunOption = Annotated[
    Path, typer.Option("--run", envvar="OVSEG_RUN", help="Run directory that the stages share.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Shipped recipe or YAML file; default: the run's own."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.option=value, on top of the recipe.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's seed.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="fp32, bf16, fp16, auto; default: the stage's.")
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Begin anew instead of going on where it stopped.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
ReportOption = Annotated[
    bool, typer.Option("--report/--no-report", help="Also write report.html, a page to look at.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")]
DEFAULT_RUN = Path("run")


def recipe_changes(overrides: Sequence[str] | None, seed: int | None) -> list[str]:
    """What --set and --seed change in a recipe."""
    return [*(overrides or ()), *([f"seed={seed}"] if seed is not None else [])]
