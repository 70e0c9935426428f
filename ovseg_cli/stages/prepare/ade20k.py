"""ADE20K-150, ADEChallengeData2016: label maps, panoptic and instance annotations of 150 classes.

annotations/<split>/*.png    0 is other, 1 to 150 the classes
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ovseg_cli.stages.prepare.ade20k_instances import (
    CLASSES,
    FOLDER,
    SHORT,
    make_instances,
    read_objects,
)
from ovseg_cli.stages.prepare.label_maps import (
    check_size,
    convert_map,
    read_values,
    relabelled,
    table_of,
)
from ovseg_cli.stages.prepare.panoptic import make_panoptic, panoptic_record
from ovseg_cli.stages.prepare.sources import Download, Prepared, files_in, optional, required
from ovseg_cli.stages.prepare.work import Job, Record, make_files
from ovseg_cli.vocabulary import builtin_vocabulary

SPLITS = ("validation", "training")
_PAGE = "http://sceneparsing.csail.mit.edu"
_INSTANCE_PAGE = "https://github.com/CSAILVision/placeschallenge"
_ARCHIVE = "ADEChallengeData2016.zip"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Makes annotations_detectron2/, ade20k_panoptic_* and ade20k_instance_*.json.

    Args:
        folder: ADEChallengeData2016.
        splits: of `SPLITS`.
        workers: processes.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    left_out: list[str] = []
    for split in splits:
        required(folder, Download(f"images/{split}", _PAGE, _ARCHIVE, ".."))
        maps = required(folder, Download(f"annotations/{split}", _PAGE, _ARCHIVE, ".."))
        names = [path.stem for path in files_in(maps, "*.png", _ARCHIVE)]
        counts[f"{split} label maps"] = _label_maps(folder, split, names, workers)
        part = Download(f"annotations_instance/{split}", _INSTANCE_PAGE, "annotations_instance.tar")
        if optional(folder, part) is None:
            left_out.append(
                f"{folder / part.path}: not there, so no panoptic and instance annotations; get "
                f"annotations_instance.tar from {part.page} and put it into {folder}"
            )
        else:
            counts[f"{split} panoptic"] = _panoptic(folder, split, names, workers)
            counts[f"{split} instances"] = make_instances(folder, split, names, workers)
    return Prepared(folder, counts, tuple(left_out))


def _label_maps(folder: Path, split: str, names: Sequence[str], workers: int) -> int:
    table = table_of({0: 255} | {value: value - 1 for value in range(1, 151)}, size=256)
    target = folder / "annotations_detectron2" / split
    jobs = [
        Job((folder / "annotations" / split / f"{name}.png",), (target / f"{name}.png",))
        for name in names
    ]
    title = f"{FOLDER} {split}: label maps"
    make_files(jobs, partial(convert_map, table=table), title=title, workers=workers)
    return len(jobs)


def _panoptic(folder: Path, split: str, names: Sequence[str], workers: int) -> int:
    file = folder / f"ade20k_panoptic_{SHORT[split]}.json"
    jobs = [
        Job(
            (
                folder / "annotations" / split / f"{name}.png",
                folder / "annotations_instance" / split / f"{name}.png",
                folder / "images" / split / f"{name}.jpg",
            ),
            (file.with_suffix("") / f"{name}.png",),
        )
        for name in names
    ]
    title = f"{FOLDER} {split}: panoptic"
    make_panoptic(file, jobs, convert_scene, CLASSES, title=title, workers=workers)
    return len(names)


def convert_scene(job: Job) -> Record:
    """Writes an image's panoptic PNG: stuff of the label map, and over it the instances.

    A thing's pixels that no instance has are void.

    Args:
        job: sources (label map, instance map, image), target the PNG.

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    path, objects_path, image = job.sources
    labels = read_values(path)
    check_size(image, labels.shape)
    objects = read_objects(objects_path, labels.shape)
    is_thing = builtin_vocabulary(CLASSES).is_thing
    stuff = {value: value for value in range(1, 151) if not is_thing[value - 1]}
    table = table_of(dict.fromkeys(range(151), 0) | stuff, size=256)
    ids = relabelled(labels, table, path)
    category_of = {value: value - 1 for value in stuff}
    for number, category in objects.category_of.items():
        ids[objects.numbers == number] = 256 + number
        category_of[256 + number] = category
    return panoptic_record(job.targets[0], image.name, ids, category_of)
