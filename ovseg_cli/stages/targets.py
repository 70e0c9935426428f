"""The datasets that a recipe names beside its own, to score a model where it was not trained."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps, Values, pixel_values
from ovseg_cli.errors import RecipeError, UsageError
from ovseg_cli.inference import SemanticAt, Task
from ovseg_cli.recipe import Recipe, Share, build
from ovseg_cli.stages.session import Settings, class_list, data_folder
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary, category_ids, parse_labels

SECTION = "targets"
OVERRIDES = {
    "labels": "vocabulary",
    "tasks": "evaluate",
    "short_side": "framing",
    "max_side": "framing",
    "object_threshold": "inference",
    "overlap_threshold": "inference",
    "semantic_at": "inference",
}


@dataclass(frozen=True)
class TargetOptions:
    """A dataset to score on; what is not said is as in the recipe's other sections.

    Attributes:
        root: the dataset's folder, below OVSEG_DATA, the run directory or this folder.
        split: the split's name.
        annotations: `panoptic`, `instances`, or `semantic` for label maps.
        classes: a built-in vocabulary with the dataset's category ids; None for the names in the
            annotation file. Label maps need one, or @FILE with a class a line, in the order of the
            maps' values and the syntax of `--labels`.
        images: the image folder below the root, where it is not the split's name.
        file: the annotation file below the root, where it is not COCO's; of label maps a text file
            with the names to read.
        maps: the folder of the label maps below the root, or of the panoptic PNGs where it is not
            the annotation file's name.
        values: what a pixel of a label map is: its class's `index`; the `index_from_one`, as in
            ADE20K; its `id` in the list `classes`, as PASCAL VOC has it, other values being void;
            or the `id_from_zero`, as COCO-Stuff.
        labels: the words for the target's classes, in their order and in the syntax of `--labels`,
            such as @names.txt; None for the names of `classes` or of the annotation file.
        tasks: any of panoptic, semantic and instance.
        short_side: pixels of the shorter side, None to keep the size.
        max_side: most pixels of the longer side, None for no maximum.
        object_threshold: a panoptic segment's class probability is above it.
        overlap_threshold: a panoptic segment keeps at least this share of its mask's area.
        semantic_at: at which size the semantic map is made, see `InferenceOptions`.
    """

    root: str
    split: str = "val"
    annotations: Literal["panoptic", "instances", "semantic"] = "panoptic"
    classes: str | None = None
    images: str | None = None
    file: str | None = None
    maps: str | None = None
    values: Values = "index"
    labels: str | None = None
    tasks: tuple[Task, ...] = ()
    short_side: PositiveInt | None = None
    max_side: PositiveInt | None = None
    object_threshold: Share = 0.0
    overlap_threshold: Share = 0.0
    semantic_at: SemanticAt = "original"


def target_options(recipe: Recipe, name: str) -> TargetOptions:
    """A target of a recipe, checked.

    Raises:
        UsageError: the recipe names no such target.
        RecipeError: an option that cannot be used.
    """
    section = _section(recipe, name)
    options = build(f"{SECTION}.{name}", section, TargetOptions)
    if options.annotations == "semantic" and not (options.maps and options.classes):
        raise RecipeError(
            f"[{SECTION}.{name}] annotations: semantic needs 'maps', the folder of label maps, and "
            "'classes', the built-in vocabulary or @FILE in the order of their values"
        )
    return options


def check_targets(recipe: Recipe) -> None:
    """Checks every target of a recipe.

    Raises:
        RecipeError: the first option that is unknown, missing or of another type.
    """
    for name in recipe.section(SECTION):
        target_options(recipe, name)


def with_target(recipe: Recipe, name: str) -> Recipe:
    """The recipe with a target's tasks, sizes, thresholds and words, without those of its dataset.

    Raises:
        UsageError: the recipe names no such target.
    """
    sections = {key: dict(options) for key, options in recipe.sections.items()}
    sections.setdefault("vocabulary", {}).pop("labels", None)
    for option, value in _section(recipe, name).items():
        if option in OVERRIDES:
            sections.setdefault(OVERRIDES[option], {})[option] = value
    return replace(recipe, sections=sections)


def target_dataset(settings: Settings, name: str) -> CocoDataset | SemanticMaps:
    """A target's annotated images.

    Args:
        settings: the recipe names the target.
        name: the target's.

    Raises:
        UsageError: the recipe names no such target.
        RecipeError: an option that cannot be used, or no such folder exists.
        VocabularyError: `classes` is no built-in vocabulary.
        InputError: the dataset cannot be read.
    """
    options = target_options(settings.recipe, name)
    mend = "put it there, or name the folder that holds it in OVSEG_DATA"
    return dataset_in(data_folder(settings, f"{SECTION}.{name}", options.root, mend), options)


def dataset_in(root: Path, options: TargetOptions) -> CocoDataset | SemanticMaps:
    """A dataset where it lies.

    Args:
        root: its folder.
        options: what it holds; those that say how it is scored are not looked at.

    Raises:
        VocabularyError: `classes` cannot be used.
        InputError: the dataset cannot be read.
    """
    if options.annotations == "semantic":
        vocabulary, ids = _classes_of_maps(str(options.classes))
        return SemanticMaps(
            root,
            options.split,
            vocabulary,
            images=options.images or options.split,
            maps=str(options.maps),
            file=options.file,
            values=pixel_values(options.values, ids),
        )
    return CocoDataset(
        root,
        options.split,
        annotations=options.annotations,
        class_list=class_list(options.classes),
        images=options.images,
        file=options.file,
        maps=options.maps,
    )


def _classes_of_maps(classes: str) -> tuple[Vocabulary, tuple[int, ...]]:
    if not classes.startswith("@"):
        return builtin_vocabulary(classes), builtin_ids(classes)
    vocabulary = parse_labels(classes)
    return vocabulary, category_ids(vocabulary)


def _section(recipe: Recipe, name: str) -> dict[str, Any]:
    targets = recipe.section(SECTION)
    if name not in targets:
        there = f"it has {', '.join(targets)}" if targets else "it has none"
        raise UsageError(f"--target {name}: no such target in the recipe; {there}")
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise RecipeError(
            f"[{SECTION}] {name}: cannot be part of a folder's name; use letters, digits, '-' and "
            "'_'"
        )
    if not isinstance(targets[name], dict):
        raise RecipeError(f"[{SECTION}] {name}: expected a mapping of options, such as 'root: DIR'")
    return dict(targets[name])
