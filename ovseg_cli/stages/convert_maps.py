"""`ovseg datasets from-maps`: label maps as panoptic annotations, one segment a class and image.

COCO-Stuff, PASCAL VOC and ADE20K with all its names are published as label maps; as COCO's panoptic
files any stage can learn from them, with the unseen classes of a zero-shot split left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Int
from pydantic import PositiveInt
from torch import Tensor

from ovseg_cli.datasets.semantic_maps import SemanticMaps, Values, pixel_values
from ovseg_cli.errors import InputError, UsageError
from ovseg_cli.progress import progress
from ovseg_cli.stages.prepare.panoptic import image_ids
from ovseg_cli.storage import write_json
from ovseg_cli.structures import Segment, Vocabulary
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary, parse_labels
from ovseg_cli.writers import (
    categories,
    panoptic_annotation,
    panoptic_image,
    panoptic_json,
    write_png,
)


@dataclass(frozen=True)
class LabelMaps:
    """A split of a dataset of label maps; all folders and files are below its root.

    Attributes:
        classes: a built-in vocabulary with the dataset's ids, such as `coco_stuff_156_15`.
        maps: the folder of the label maps.
        images: that of the images; None for the split's name.
        names: a text file with the names to read, a line each; None for every map.
        values: what a pixel is, see `pixel_values`.
        unseen: names of the classes that training is to leave out, in the syntax of `--labels`;
            None for those of the vocabulary.
        rare: instead, those that are in at most so many of the split's images: ADE20K's 275 of 847
            are those in 10 or fewer (ZegFormer, CVPR 2022).
    """

    classes: str
    maps: str
    images: str | None = None
    names: str | None = None
    values: Values = "index"
    unseen: str | None = None
    rare: PositiveInt | None = None


def convert_maps(root: Path, split: str, options: LabelMaps) -> dict[str, int]:
    """Writes annotations/panoptic_<split>.json and its PNGs, and which classes are seen.

    Images without a labelled pixel are left out. The classes that are seen stand in
    annotations/vocabulary.json, for all splits; it is written where options or vocabulary say so.

    Args:
        root: the dataset's folder.
        split: its name.
        options: where its parts are.

    Returns:
        Counts of images, of images left out, of segments, and of seen and unseen classes.

    Raises:
        UsageError: two rules for unseen classes, or an unseen class that is not in the list.
        VocabularyError: there is no such built-in vocabulary, or the unseen words cannot be used.
        InputError: a folder, map or image is missing or damaged, or no image is left.
        StorageError: no space left, or the folder cannot be written.
    """
    ids, vocabulary = builtin_ids(options.classes), builtin_vocabulary(options.classes)
    seen = _seen(vocabulary, options)
    dataset = SemanticMaps(
        root,
        split,
        vocabulary,
        images=options.images or split,
        maps=options.maps,
        file=options.names,
        values=pixel_values(options.values, ids),
    )
    images_of = _convert(dataset, ids)
    images = int(images_of[-1])
    if options.rare is not None:
        seen = tuple((images_of[:-1] > options.rare).tolist())
    if seen:
        content = {"names": list(vocabulary.names), "seen": list(seen)}
        write_json(root / "annotations" / "vocabulary.json", content)
    return {
        "images": images,
        "left out": len(dataset) - images,
        "segments": int(images_of[:-1].sum()),
        "seen classes": sum(seen),
        "unseen classes": len(seen) - sum(seen),
    }


def _seen(vocabulary: Vocabulary, options: LabelMaps) -> tuple[bool, ...]:
    if options.unseen is None:
        return vocabulary.seen
    if options.rare is not None:
        raise UsageError("--unseen and --rare: both say which classes are unseen; give one")
    unseen = parse_labels(options.unseen).names
    for name in unseen:
        if name not in vocabulary.names:
            raise UsageError(f"--unseen: {name!r} is no class of {options.classes}")
    return tuple(name not in unseen for name in vocabulary.names)


def _convert(dataset: SemanticMaps, ids: Sequence[int]) -> Int[Tensor, " K1"]:
    """Writes all images; in how many each class is, and last their number."""
    vocabulary, folder = dataset.vocabulary, dataset.root / "annotations"
    path = folder / f"panoptic_{dataset.split}.json"
    counts = torch.zeros(len(vocabulary) + 1, dtype=torch.int64)
    names = [dataset.file_name(index) for index in range(len(dataset))]
    numbers = image_ids(names)
    with panoptic_json(path, categories(vocabulary, ids)) as file:
        for index in progress(range(len(dataset)), title=path.name, unit="image"):
            label_map = dataset.label_map(index)
            segments = _segments(label_map, vocabulary)
            if not segments:
                continue
            record, annotation = _records(label_map, segments, names[index], numbers[index], ids)
            write_png(path.with_suffix("") / annotation["file_name"], panoptic_image(label_map + 1))
            file.add(record, annotation)
            counts[[segment.label for segment in segments]] += 1
            counts[-1] += 1
        if not counts[-1]:
            raise InputError(f"{dataset.name}: no label map has a pixel of a class")
    return counts


def _segments(label_map: Tensor, vocabulary: Vocabulary) -> tuple[Segment, ...]:
    areas = (label_map + 1).flatten().bincount()[1:].tolist()
    return tuple(
        Segment(label + 1, label, vocabulary.is_thing[label], 1.0, area)
        for label, area in enumerate(areas)
        if area
    )


def _records(
    label_map: Tensor, segments: Sequence[Segment], name: str, number: int, ids: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """COCO's entries for an image and its annotation, which is no prediction and has no scores."""
    height, width = label_map.shape
    record = {"id": number, "file_name": name, "height": height, "width": width}
    annotation = panoptic_annotation(
        label_map + 1,
        segments,
        image_id=number,
        file_name=str(PurePosixPath(name).with_suffix(".png")),
        category_ids=ids,
    )
    for segment in annotation["segments_info"]:
        del segment["score"]
    return record, annotation
