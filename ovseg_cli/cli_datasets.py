"""`ovseg datasets`: what there is, whether it can be read, and making it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .cli_options import JsonOption, RecipeOption, SeedOption, SetOption, recipe_changes
from .cli_output import messages, note, print_json, results, show_figures, show_table
from .errors import UsageError

DataOption = Annotated[
    Path, typer.Option("--data", envvar="OVSEG_DATA", help="Folder that holds the datasets.")
]
HERE = Path()

datasets_app = typer.Typer(no_args_is_help=True, help="Find, check and make datasets.")


@datasets_app.command("list")
def list_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="All about these; default: a line each of all.")
    ] = None,
    data: DataOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show the known datasets, and which of them are here."""
    from .stages.list_datasets import HEAD, details_of, list_datasets, row_of

    entries = list_datasets(data, names or ())
    if as_json:
        print_json(entries)
        return
    if names:
        for entry in entries:
            show_table("", details_of(entry), "dataset", "")
        return
    table = Table(*HEAD, title=escape(str(data)))
    for entry in entries:
        table.add_row(*map(escape, row_of(entry)))
    results.print(table)
    messages.print("where to get one: ovseg datasets list NAME", markup=False)


@datasets_app.command("prepare")
def prepare_dataset(
    name: Annotated[str, typer.Argument(help="As 'datasets list' calls it.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Default: those that recipes read.")
    ] = None,
    data: DataOption = HERE,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: one a core for many images.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Turn an official download into what recipes read; go on where it stopped."""
    from .stages.prepare.preparations import prepare

    prepared = prepare(name, data, splits=split or (), workers=workers)
    if as_json:
        print_json(asdict(prepared) | {"folder": str(prepared.folder)})
    else:
        show_table(str(prepared.folder), prepared.counts, "ready", "images")
    for sentence in prepared.left_out:
        note(sentence)


@datasets_app.command("check")
def check_command(
    what: Annotated[str, typer.Argument(help="A known dataset's name, or any folder.")],
    split: Annotated[
        str | None, typer.Option("--split", help="This one alone; default: all that are there.")
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(
            "--annotations",
            help="Of a folder: panoptic, instances or semantic; default: as the paths tell.",
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="Annotation file, or of label maps the names.")
    ] = None,
    images: Annotated[str | None, typer.Option("--images", help="Folder of the images.")] = None,
    maps: Annotated[
        str | None, typer.Option("--maps", help="Folder of label maps, or of panoptic PNGs.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Built-in list, or @FILE with a class a line.")
    ] = None,
    values: Annotated[
        str | None,
        typer.Option("--values", help="A pixel: index, index_from_one, id or id_from_zero."),
    ] = None,
    data: DataOption = HERE,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: one a core for many images.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Read every image and annotation, and name the first that cannot be used."""
    from .stages.check_dataset import check_dataset
    from .stages.dataset_parts import folder_options

    given = {"annotations": annotations, "file": file, "images": images, "maps": maps}
    options = folder_options(what, split, **given, classes=classes, values=values)
    parts = check_dataset(what, data=data, split=split, options=options, workers=workers)
    if as_json:
        print_json([part.__dict__ for part in parts])
        return
    for part in parts:
        show_table(part.name, part.figures())


@datasets_app.command("make")
def make_dataset(
    kind: Annotated[str, typer.Argument(help="shapes, the synthetic set.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make it in.")],
    recipe: RecipeOption = "tiny/masqclip",
    overrides: SetOption = None,
    seed: SeedOption = None,
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 is one a core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a synthetic dataset in COCO's layout."""
    from .progress import progress
    from .recipe import build, load_recipe
    from .stages.make_shapes import ShapesOptions, make_shapes

    if kind != "shapes":
        raise UsageError(f"datasets make {kind}: there is only the synthetic set, 'shapes'")
    resolved = load_recipe(recipe or "tiny/masqclip", recipe_changes(overrides, seed))
    options = build("shapes", resolved.section("shapes"), ShapesOptions, seed=resolved.seed)
    with progress(title=str(folder), unit="image") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        workers = workers or os.cpu_count() or 1
        counts = make_shapes(folder, options, workers=workers, on_progress=show)
    show_figures(f"{folder}", dict(counts), as_json)


@datasets_app.command("from-maps")
def convert_maps(
    root: Annotated[Path, typer.Argument(help="Dataset's folder; all others are below it.")],
    maps: Annotated[str, typer.Option("--maps", help="Folder of the label maps.")],
    classes: Annotated[str, typer.Option("--classes", help="Built-in list, by its ids.")],
    split: Annotated[str, typer.Option("--split", help="The split's name.")] = "train",
    images: Annotated[
        str | None, typer.Option("--images", help="Folder of the images; default: the split's.")
    ] = None,
    names: Annotated[
        str | None, typer.Option("--names", help="File of the names to read; default: every map.")
    ] = None,
    values: Annotated[
        str,
        typer.Option("--values", help="A pixel: index, index_from_one, id or id_from_zero."),
    ] = "index",
    unseen: Annotated[
        str | None, typer.Option("--unseen", help="Classes to leave out of training, or @FILE.")
    ] = None,
    rare: Annotated[
        int | None, typer.Option("--rare", help="Instead: those in at most so many images.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make COCO's panoptic annotations of label maps, with seen and unseen classes."""
    from .recipe import build
    from .stages.convert_maps import LabelMaps
    from .stages.convert_maps import convert_maps as stage

    folders = {"maps": maps, "images": images, "names": names}
    given = {**folders, "classes": classes, "values": values, "unseen": unseen, "rare": rare}
    figures = stage(root, split, build("from-maps", given, LabelMaps))
    show_figures(f"{root}: {split}", figures, as_json)
