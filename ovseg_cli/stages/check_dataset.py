"""`ovseg datasets check`: reads all of a dataset and names what cannot be used first."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg_cli.datasets.caption_records import CaptionSource
from ovseg_cli.datasets.checks import (
    CaptionCheck,
    Found,
    ImageCheck,
    InstanceCheck,
    MapCheck,
    PanopticCheck,
    check_repeats,
)
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.coco_files import read_captions
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError
from ovseg_cli.progress import progress
from ovseg_cli.stages.dataset_parts import CaptionPart, Part, parts_of
from ovseg_cli.stages.processes import results_of
from ovseg_cli.stages.targets import TargetOptions, dataset_in
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

SHOWN_CLASSES = 20


@dataclass(frozen=True)
class CheckedPart:
    """A split of a dataset of which everything can be used.

    Attributes:
        name: of the dataset and split.
        kind: of annotations: panoptic, instances, semantic or captions.
        images: how many there are.
        not_annotated: those of them that have no annotation.
        annotations: segments, instances or captions; of label maps, classes summed over images.
        empty: annotations without a pixel.
        classes: annotations by class; of label maps, images that show it.
    """

    name: str
    kind: str
    images: int
    not_annotated: int
    annotations: int
    empty: int = 0
    classes: dict[str, int] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """What is shown to people: the counts, and the classes that have most annotations."""
        ranked = sorted(self.classes.items(), key=lambda item: -item[1])
        there = {name: count for name, count in ranked if count}
        shown = dict(list(there.items())[:SHOWN_CLASSES])
        counts: dict[str, Any] = {"annotations of": self.kind, "images": self.images}
        counts |= {"images without annotation": self.not_annotated}
        counts |= {"annotations": self.annotations, "annotations without a pixel": self.empty}
        if self.classes:
            counts |= {"classes": len(self.classes), "classes that are there": len(there)}
        more = {"more classes": len(there) - len(shown)} if len(there) > len(shown) else {}
        return counts | {f"  {name}": count for name, count in shown.items()} | more


def check_dataset(
    what: str,
    *,
    data: Path,
    split: str | None = None,
    options: TargetOptions | None = None,
    workers: int = 0,
) -> list[CheckedPart]:
    """Reads every image and annotation of a dataset.

    Args:
        what: the name of a known dataset, or a folder, see `parts_of`.
        data: the folder that holds the known datasets.
        split: to check it alone; None for all that are there.
        options: what a folder holds, where that is not told from its files.
        workers: processes; 0 for one a core where there are many images.

    Returns:
        What was found, one entry a split and kind of annotation.

    Raises:
        UsageError: no such dataset, folder or split, or the folder holds none that is known.
        InputError: the first file or annotation that cannot be used, or there is no image.
    """
    parts = parts_of(what, data=data, split=split, options=options)
    return [_not_empty(_check(part, workers)) for part in parts]


def _not_empty(part: CheckedPart) -> CheckedPart:
    if not part.images:
        raise InputError(f"{part.name}: there is no image in this {part.kind} dataset")
    return part


def _check(part: Part | CaptionPart, workers: int) -> CheckedPart:
    if isinstance(part, CaptionPart):
        return _check_captions(part, workers)
    dataset = dataset_in(part.root, part.whole())
    if isinstance(dataset, SemanticMaps):
        names = dict(enumerate(dataset.vocabulary.names))
        return _counted(part.name, "semantic", list(_map_checks(dataset)), names, workers)
    _check_file(dataset, part.options)
    names = {
        category_id: dataset.vocabulary.names[index]
        for category_id, index in dataset.class_of.items()
    }
    return _counted(part.name, dataset.kind, list(_coco_checks(dataset)), names, workers)


def _check_captions(part: CaptionPart, workers: int) -> CheckedPart:
    if not part.images.is_dir():
        raise InputError(f"{part.images}: no such folder; it should hold the images of {part.file}")
    records = list(CaptionSource(part.images, part.file))
    check_repeats(part.file, "file_name", [record.image for record in records])
    unknown = set(read_captions(part.file)) - {record.image_id for record in records}
    if unknown:
        raise InputError(f"{part.file}: image_id {min(unknown)} is not among 'images'")
    checks = [
        CaptionCheck(part.images / record.image, record.size, part.file, record.captions)
        for record in records
    ]
    sentences = sum(len(record.captions) for record in records)
    for _ in _run(part.name, checks, workers):
        pass
    return CheckedPart(part.name, "captions", len(checks), 0, sentences)


def _check_file(dataset: CocoDataset, options: TargetOptions) -> None:
    """What holds for the annotation file as a whole, beyond what its reader has checked."""
    records, file = dataset.records, dataset.file
    check_repeats(file, "file_name", [record.file_name for record in records])
    if dataset.kind == "instances":
        ids = [segment["id"] for record in records for segment in record.segments]
        check_repeats(file, "annotation id", ids)
    else:
        pngs = [record.panoptic_file for record in records if record.panoptic_file]
        check_repeats(file, "panoptic file_name", pngs)
    if options.classes is not None:
        _check_categories(file, options.classes, dataset)


def _check_categories(file: Path, classes: str, dataset: CocoDataset) -> None:
    vocabulary = builtin_vocabulary(classes)
    rows = zip(builtin_ids(classes), vocabulary.names, vocabulary.is_thing, strict=True)
    for number, name, thing in rows:
        if number not in dataset.class_of and (thing or dataset.kind == "panoptic"):
            raise InputError(f"{file}: 'categories' lacks id {number} ({name}) of {classes}")


def _coco_checks(dataset: CocoDataset) -> Iterator[ImageCheck]:
    for index, record in enumerate(dataset.records):
        image = dataset.image_path(index)
        if dataset.kind == "panoptic":
            yield PanopticCheck(image, record, dataset.file, dataset.panoptic_path(index))
        else:
            yield InstanceCheck(image, record, dataset.file)


def _map_checks(dataset: SemanticMaps) -> Iterator[ImageCheck]:
    classes = len(dataset.vocabulary)
    for index in range(len(dataset)):
        image, label_map = dataset.image_path(index), dataset.map_path(index)
        yield MapCheck(image, label_map, classes, dataset.values)
    for image in dataset.images_without_map():
        yield MapCheck(image, None, classes, dataset.values)


def _counted(
    name: str, kind: str, checks: Sequence[ImageCheck], names: dict[int, str], workers: int
) -> CheckedPart:
    counts: Counter[int] = Counter()
    empty = not_annotated = 0
    for found in _run(name, checks, workers):
        counts.update(found.categories)
        empty += found.empty
        not_annotated += not found.categories
    classes = {title: counts[number] for number, title in names.items()}
    return CheckedPart(name, kind, len(checks), not_annotated, counts.total(), empty, classes)


def _run(name: str, checks: Sequence[ImageCheck], workers: int) -> Iterator[Found]:
    with progress(title=name, unit="image", total=len(checks)) as bar:
        for found in results_of(checks, _run_one, workers=workers):
            bar.update()
            yield found


def _run_one(check: ImageCheck) -> Found:
    return check.run()
