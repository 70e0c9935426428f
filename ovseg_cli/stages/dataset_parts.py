"""What of a dataset can be checked: the splits of a known one, or what a folder's files say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ovseg_cli.datasets.coco_files import Kind
from ovseg_cli.datasets.known import KnownDataset, known_dataset, known_datasets
from ovseg_cli.errors import RecipeError, UsageError
from ovseg_cli.recipe import build
from ovseg_cli.stages.targets import TargetOptions

MAP_FOLDERS = ("masks", "labels", "annotations")
CLASSES_FILE = "classes.txt"
_EXPECTED = (
    "annotations/instances_SPLIT.json or panoptic_SPLIT.json beside a folder of images, or "
    f"images/ and masks/ with {CLASSES_FILE}, a class a line"
)


@dataclass(frozen=True)
class Part:
    """A split with masks.

    Attributes:
        name: of the dataset and split.
        root: the dataset's folder.
        options: what it holds.
    """

    name: str
    root: Path
    options: TargetOptions

    def whole(self) -> TargetOptions:
        """The options for all of an annotation file's categories, and not the chosen ones alone."""
        if self.options.annotations == "semantic":
            return self.options
        return replace(self.options, classes=None)


@dataclass(frozen=True)
class CaptionPart:
    """A split with captions.

    Attributes:
        name: of the dataset and split.
        images: the folder of the images.
        file: of the captions.
    """

    name: str
    images: Path
    file: Path


def parts_of(
    what: str, *, data: Path, split: str | None = None, options: TargetOptions | None = None
) -> list[Part | CaptionPart]:
    """The splits to check.

    A folder is in COCO's layout, or has `images/`, one of `masks/`, `labels/` and `annotations/`
    with label maps, and `classes.txt`.

    Args:
        what: the name of a known dataset, or a folder.
        data: the folder that holds the known datasets.
        split: to take it alone.
        options: what a folder holds, where that is not told from its files.

    Raises:
        UsageError: no such dataset, folder or split, or the folder holds none that is known.
    """
    root = Path(what)
    if what in {dataset.name for dataset in known_datasets()} or not root.is_dir():
        try:
            dataset = known_dataset(what)
        except UsageError as error:
            raise UsageError(f"{what}: no such folder, and {error}") from error
        if options is not None:
            raise UsageError(f"{what}: it is known where its parts lie; leave these options out")
        return _known_parts(dataset, data, split)
    if options is not None:
        options = replace(options, images=options.images or _images(root, options.split))
        return [Part(f"{root.resolve().name}-{options.split}", root, options)]
    found = [*_coco_parts(root), *_map_parts(root)]
    name = f"{root.resolve().name}-{split}"
    chosen = found if split is None else [part for part in found if part.name == name]
    if not found:
        raise UsageError(f"{root}: no dataset is found here; there should be {_EXPECTED}")
    if not chosen:
        there = ", ".join(part.name for part in found)
        raise UsageError(f"--split {split}: {root} has {there}")
    return chosen


def folder_options(root: str, split: str | None, **given: str | None) -> TargetOptions | None:
    """What a folder holds, as the user says it; None where nothing is said.

    Args:
        root: the folder.
        split: its name; None for `val`.
        given: options of `TargetOptions`; None for what is not said.

    Raises:
        UsageError: an option that cannot be used, or label maps without classes.
    """
    said = {key: value for key, value in given.items() if value is not None}
    if not said:
        return None
    said.setdefault("annotations", _kind(said))
    if said.get("annotations") == "semantic" and not {"maps", "classes"} <= set(said):
        raise UsageError("label maps need --maps, their folder, and --classes, a list or @FILE")
    if split is not None:
        said["split"] = split
    try:
        return build("datasets check", {"root": root, **said}, TargetOptions)
    except RecipeError as error:
        raise UsageError(str(error)) from error


def _kind(said: dict[str, str]) -> str:
    """What the paths tell where the kind of annotations is not said."""
    file = said.get("file", "")
    if "maps" in said and not file.endswith(".json"):
        return "semantic"
    return "instances" if file and "panoptic" not in file and "maps" not in said else "panoptic"


def _known_parts(dataset: KnownDataset, data: Path, split: str | None) -> list[Part | CaptionPart]:
    splits = dataset.splits_here(data) if split is None else (split,)
    if not splits:
        raise UsageError(
            f"{dataset.name}: {dataset.state(data)} in {data / dataset.root}; name the folder that "
            f"holds it in OVSEG_DATA, or see 'ovseg datasets list {dataset.name}'"
        )
    root = data / dataset.root
    parts: list[Part | CaptionPart] = []
    for name in splits:
        layout, title = dataset.layout(name), f"{dataset.name}-{name}"
        if dataset.annotations == "captions":
            parts.append(CaptionPart(title, root / layout["images"], root / layout["file"]))
        else:
            parts.append(_part(title, root, name, layout))
    return parts


def _coco_parts(root: Path) -> list[Part | CaptionPart]:
    parts: list[Part | CaptionPart] = []
    for file in sorted((root / "annotations").glob("*_*.json")):
        kind, _, split = file.stem.partition("_")
        name, path = f"{root.resolve().name}-{split}", str(file.relative_to(root))
        if kind == "captions":
            parts.append(CaptionPart(name, root / _images(root, split), file))
        elif kind == "lvis":
            said = {"annotations": "instances", "images": ".", "file": path}
            parts.append(_part(name, root, split, said))
        elif kind in get_args(Kind):
            said = {"annotations": kind, "images": _images(root, split), "file": path}
            parts.append(_part(name, root, split, said))
    return parts


def _part(name: str, root: Path, split: str, said: dict[str, str]) -> Part:
    return Part(name, root, build(name, {"root": str(root), "split": split, **said}, TargetOptions))


def _images(root: Path, split: str) -> str:
    places = (split, f"images/{split}", "images")
    return next((place for place in places if (root / place).is_dir()), split)


def _map_parts(root: Path) -> Sequence[Part]:
    classes = root / CLASSES_FILE
    maps = [name for name in MAP_FOLDERS if (root / name).is_dir()]
    if not (root / "images").is_dir() or not maps or not classes.is_file():
        return []
    said = {"annotations": "semantic", "classes": f"@{classes}", "images": "images"}
    return [_part(f"{root.resolve().name}-all", root, "all", {**said, "maps": maps[0]})]
