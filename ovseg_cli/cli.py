"""The command line: parse, call a stage, show; torch is imported where a stage needs it."""

import signal
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .cli_consent import consent
from .cli_datasets import datasets_app
from .cli_doctor import doctor
from .cli_export import export
from .cli_models import models_app
from .cli_options import (
    DEFAULT_RUN,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RecipeOption,
    ReportOption,
    RestartOption,
    RunOption,
    SeedOption,
    SetOption,
    YesOption,
    recipe_changes,
)
from .cli_output import messages, note, plain, print_json, results, show_figures, show_table
from .errors import OvsegError, SomeInputsFailedError
from .training.signals import Interrupted

if TYPE_CHECKING:
    from .stages.session import Outcome, Settings

app = typer.Typer(
    name="ovseg",
    help="Open-vocabulary segmentation: instance, semantic and panoptic masks for any words.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(datasets_app, name="datasets")
app.add_typer(models_app, name="models")
app.command("doctor")(doctor)
app.command("export")(export)


@app.command("train-clip")
def train_clip(
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a small CLIP from image-caption pairs."""
    from .stages.train_clip import train_clip as stage

    settings = _settings(run, recipe, overrides, seed, device, precision, restart)
    _show_outcome(stage(settings), as_json)


@app.command("train-proposals")
def train_proposals(
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the class-agnostic proposal network on the masks of the seen classes."""
    from .stages.train_proposals import train_proposals as stage

    settings = _settings(run, recipe, overrides, seed, device, precision, restart)
    _show_outcome(stage(settings), as_json)


@app.command("distill")
def distill(
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the proposal network on, with masks of its own for what nobody annotated."""
    from .stages.distill import distill as stage

    settings = _settings(run, recipe, overrides, seed, device, precision, restart)
    for outcome in stage(settings):
        _show_outcome(outcome, as_json)


@app.command("mine-captions")
def mine_captions(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Dataset in COCO's layout, or images; default: the recipe's dataset."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Default: the recipe's, train2017, or the only one there."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Captions of a folder of images: .jsonl, .csv, .tsv."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="single, or ray: the cluster at RAY_ADDRESS.")
    ] = "single",
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Mine pairs of masks and nouns from captioned images."""
    from .stages.mine_captions import mine_captions as stage

    settings = _settings(run, recipe, overrides, seed, device, precision, restart)
    outcome = stage(
        settings, folder=folder, split=split, captions=captions, engine=engine, on_notice=note
    )
    _show_outcome(outcome, as_json)
    if failed := outcome.results["images_failed"]:
        raise SomeInputsFailedError(
            f"{failed} of {outcome.results['images']} images could not be read, the others are "
            f"done; they are listed in {run / 'pairs' / 'statistics.json'}"
        )


@app.command("tune-clip")
def tune_clip(
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode", help="masq, rma, mpt, finetune, joint or maft; default: the recipe's."
        ),
    ] = None,
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tune CLIP to classify masks."""
    from .stages.tune_clip import tune_clip as stage

    settings = _settings(run, recipe, overrides, seed, device, precision, restart)
    _show_outcome(stage(settings, mode=mode), as_json)


@app.command("predict")
def predict(
    sources: Annotated[
        list[str],
        typer.Argument(help="Images, videos, folders, globs, @list.txt, or - for a list on stdin."),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help='Words: "beer,couch/sofa,sky:stuff", @file.txt or a built-in list.'
        ),
    ] = None,
    run: RunOption = DEFAULT_RUN,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A name of 'ovseg models list' or a run directory; default: --run, else the "
            "pretrained default, else tiny (in the box).",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="panoptic, instance or semantic; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder; default: RUN/predictions, for the last results only."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results of an earlier time there.")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="Draw the results over the images.")] = True,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Take the images of a folder's folders.")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse larger images before decoding.")
    ] = 64_000_000,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Of a video take each such frame only.")
    ] = 1,
    background: Annotated[
        str,
        typer.Option(
            "--background",
            help="none; threshold: low scores are void; distractors: common words compete.",
        ),
    ] = "none",
    score_threshold: Annotated[
        float | None,
        typer.Option("--score-threshold", help="Of segments and instances; default: the recipe's."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option("--tile", help="Segment large images in squares of this side.")
    ] = None,
    report: ReportOption = True,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Segment images with any words."""
    from .device import checked_precision, select_device
    from .stages.predict import predict_command

    chosen = select_device(device)
    result = predict_command(
        sources,
        labels,
        run=run,
        model=model,
        tasks=task,
        folder=output,
        overlays=overlays,
        recursive=recursive,
        max_pixels=max_pixels,
        every=every,
        overwrite=overwrite,
        background=background,
        score_threshold=score_threshold,
        tile=tile,
        report=report,
        device=chosen,
        precision=checked_precision(precision or "fp32", chosen),
        consent=consent(yes),
        on_notice=note,
        on_record=print_json if as_json else None,
    )
    if not as_json and result.images:
        count = "1 image" if result.images == 1 else f"{result.images} images"
        show_table(f"{count} -> {result.folder}", result.found, "class", "found")
    error = result.error()
    if error is not None:
        raise error


@app.command("demo")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the pictures.")] = Path(
        "ovseg-demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Segment the images in the box with the model in the box."""
    from .stages.demo import demo as stage

    outcome = stage(output)
    note(outcome.notice)
    if as_json:
        print_json([{**image.__dict__, "overlay": str(image.overlay)} for image in outcome.images])
        return
    table = Table("image", "found", "overlay", title="ovseg demo")
    for image in outcome.images:
        table.add_row(escape(image.name), escape(image.found), escape(str(image.overlay)))
    results.print(table)
    results.print(f"try next:\n  {outcome.command}", markup=False, soft_wrap=True)


@app.command("evaluate")
def evaluate(
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split to score; default: the recipe's test.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Folder of the results; default: the artifacts.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Score on one of the recipe's targets instead.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also score evaluate.sweep; default: FC-CLIP's table 8.")
    ] = False,
    oracle: Annotated[
        str | None,
        typer.Option("--oracle", help="masks or classes, from the annotations: an upper bound."),
    ] = None,
    report: ReportOption = True,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the segmenter of a run directory on an annotated split."""
    from .stages.evaluate import evaluate as stage
    from .stages.scores import results_table, sweep_table

    settings = _settings(run, recipe, overrides, None, device, precision, False)
    outcome = stage(
        settings,
        split=split,
        name=name,
        target=target,
        sweep=sweep,
        oracle=oracle,
        report=report,
    )
    parts = {"sweep": outcome.sweep, "input_sizes": outcome.input_sizes}
    found = {part: rows for part, rows in parts.items() if rows}
    if as_json:
        print_json({**outcome.results, **found})
        return
    for head, *rows in [results_table(outcome.results), *map(sweep_table, found.values())]:
        table = Table(*head, title="percent")
        for row in rows:
            table.add_row(*row)
        results.print(table)
    messages.print(f"written to {outcome.folder}", markup=False)


@app.command("features")
def features(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    clip: Annotated[
        list[str] | None,
        typer.Option(
            "--clip",
            help="Run directory or open_clip's ARCHITECTURE[:PRETRAINED]; may be repeated; "
            "default: --run.",
        ),
    ] = None,
    run: RunOption = DEFAULT_RUN,
    size: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            min=1,
            help="Shorter side in pixels; may be repeated; default: 1, 1.5, 2, 3 x each CLIP's.",
        ),
    ] = None,
    clusters: Annotated[int, typer.Option("--clusters", min=2, help="Clusters of a map.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the clusters' beginnings.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture, a PNG.")] = Path(
        "features.png"
    ),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw clusters of CLIP's dense features at several input sizes."""
    from .device import select_device
    from .stages.features import features as stage

    chosen = select_device(device)
    drawn = stage(
        image,
        clip or (),
        output,
        run=run,
        sizes=size or (),
        clusters=clusters,
        seed=seed,
        device=chosen,
    )
    if as_json:
        print_json(drawn.as_json())
        return
    table = Table("clip", "input", "cells", title=escape(str(drawn.picture)))
    for title, maps in drawn.maps:
        for found in maps:
            sides = (f"{a} x {b}" for a, b in (found.size, found.labels.shape))
            table.add_row(escape(title), *sides)
    results.print(table)


@app.command("pack")
def pack(
    folder: Annotated[Path, typer.Argument(help="New folder for the packed model.")],
    run: RunOption = DEFAULT_RUN,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Pack the segmenter of a run directory into one small folder with a model card."""
    from .stages.pack import pack as stage

    packed = stage(_settings(run, recipe, overrides, None, device, None, False), folder)
    if as_json:
        print_json(packed.card)
    messages.print(f"{packed.folder}: {packed.megabytes:.1f} MB; use it with --model", markup=False)


def main() -> None:
    """Runs the command line; the exit codes are 0, 1, 2, 3, 130 and 143, see the README."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        app()
    except OvsegError as error:
        messages.print(plain(f"error: {error}"), style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except Interrupted as stopped:
        messages.print(str(stopped), markup=False, soft_wrap=True)
        sys.exit(128 + stopped.signal_number)


def _on_sigterm(number: int, frame: types.FrameType | None) -> None:
    raise Interrupted(number, "terminated; what was finished is kept")


def _settings(
    run: Path,
    recipe: str | None,
    overrides: Sequence[str] | None,
    seed: int | None,
    device: str,
    precision: str | None,
    restart: bool,
) -> "Settings":
    from .device import checked_precision, select_device
    from .recipe import load_recipe
    from .run import Run
    from .stages.recipe_check import check_recipe
    from .stages.session import Settings

    directory = Run(run)
    changes = recipe_changes(overrides, seed)
    resolved = directory.recipe(changes) if recipe is None else load_recipe(recipe, changes)
    check_recipe(resolved)
    chosen = select_device(device)
    asked = checked_precision(precision, chosen) if precision else None
    return Settings(directory, resolved, chosen, asked, restart)


def _show_outcome(outcome: "Outcome", as_json: bool) -> None:
    if outcome.already_done:
        messages.print(f"{outcome.stage}: already done; --restart does it again", markup=False)
    title = f"{outcome.stage} -> {outcome.artifact}" if outcome.artifact else outcome.stage
    show_figures(title, outcome.results, as_json)
