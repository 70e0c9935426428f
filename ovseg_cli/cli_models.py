"""`ovseg models`: weights and data that cannot be shipped."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .cli_consent import consent
from .cli_options import DEFAULT_RUN, JsonOption, SetOption, YesOption
from .cli_output import messages, note, print_json, results, show_table
from .errors import UsageError

models_app = typer.Typer(no_args_is_help=True, help="Get models and data.")

NameArgument = Annotated[str, typer.Argument(help="A name of 'ovseg models list'.")]


@models_app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models and data that are known, their licences, and what of them is here."""
    from .stages.models_here import model_records

    records = model_records()
    if as_json:
        print_json(records)
        return
    table = Table(title="ovseg models list")
    for head in ("name", "what", "size", "commercial use", "here"):
        table.add_column(head, overflow="fold")
    for record in records:
        table.add_row(*map(escape, _row(record)))
    results.print(table)
    results.print("ovseg models show NAME says where it comes from and how to get it")


@models_app.command("show")
def show_model(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of a model: source, licence, size, how to get and to use it."""
    from .downloads import megabytes
    from .stages.models_here import model_record

    record = model_record(name)
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        if value is not None:  # no table: addresses and commands are there to be copied
            shown = megabytes(value) if key == "size" else _shown(value)
            results.print(f"{key}: {shown}", markup=False, soft_wrap=True)


@models_app.command("pull")
def pull_model(name: NameArgument, yes: YesOption = False) -> None:
    """Download a model or data into the cache, ready for --model."""
    from .stages.pull_model import pull_model as stage

    place = stage(name, consent=consent(yes))
    results.print(f"{name}: {place}", markup=False, soft_wrap=True)


@models_app.command("import")
def import_released(
    file: Annotated[Path, typer.Argument(help="Released weights: .pkl, .pth, .pt, .safetensors.")],
    system: Annotated[
        str | None,
        typer.Option("--system", help="mask2former, masqclip, maskclip, fcclip, maft or ovseg."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Instead: its name of 'ovseg models list'; without --run it goes into the cache, "
            "for --model NAME.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", envvar="OVSEG_RUN", help="Run directory to make; default: run, see --name."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Shipped recipe or YAML file; default: the system's own."),
    ] = None,
    overrides: SetOption = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Where it was fetched, for the record.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a run directory of released weights."""
    from .checkpoints.origins import Origin
    from .stages.import_entry import import_entry
    from .stages.import_model import import_model

    changes = overrides or ()
    if (system is None) == (name is None):
        raise UsageError("models import: give --system, or --name as 'ovseg models list' has it")
    if name is not None and url is not None:
        raise UsageError("models import: --url goes with --system; a --name has its own address")
    if name is not None:
        report = import_entry(file, name, run, recipe=recipe, overrides=changes)
    else:
        origin, folder = Origin(url=url), run or DEFAULT_RUN
        report = import_model(
            file, str(system), folder, origin=origin, recipe=recipe, overrides=changes
        )
    for text in (f"licence of these weights: {report.licence}", *report.notes):
        note(text)
    if as_json:
        print_json(report.as_json())
        return
    show_table(f"{file} -> {report.folder}", report.figures(), "part", "what")
    if report.finds_masks:
        model = name if name and run is None else report.folder
        use = f"use it with: ovseg predict photo.jpg --labels WORDS --model {model}"
        messages.print(use, markup=False, soft_wrap=True)


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    size = f"{record['size'] / 1e6:.0f} MB" if record["size"] else ""
    commercial = {True: "yes", False: "NO", None: "?"}[record["commercial"]]
    return record["name"], record["about"], size, commercial, "yes" if record["here"] else ""
