"""`ovseg export`: a segmenter and its words as one ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_consent import consent
from .cli_options import DEFAULT_RUN, JsonOption, RunOption, YesOption
from .cli_output import note, print_json, show_table
from .errors import UsageError


def export(
    file: Annotated[Path, typer.Argument(help="The file to write, such as model.onnx.")],
    labels: Annotated[
        str, typer.Option("--labels", help="The words to bake in, as for 'ovseg predict'.")
    ],
    run: RunOption = DEFAULT_RUN,
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of --run, as for 'ovseg predict'.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="HEIGHT,WIDTH of the images that it takes; default: squares of the recipe's side.",
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Compare on this image; may be repeated."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write ONNX with the words baked in, and compare it with the original."""
    from .stages.export import export as stage

    exported = stage(
        file,
        labels,
        run=run,
        model=model,
        size=_size(size),
        images=image or (),
        overwrite=overwrite,
        consent=consent(yes),
        on_notice=note,
    )
    figures = {"megabytes": round(exported.megabytes, 1), **exported.agreement.as_json()}
    if as_json:
        print_json({"file": str(file), **exported.about, "check": figures})
    else:
        show_table(str(file), figures)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) != 2 or not all(side.strip().isdecimal() and int(side) for side in sides):
        raise UsageError(f"--size {text}: give HEIGHT,WIDTH in pixels, such as 480,640")
    return int(sides[0]), int(sides[1])
