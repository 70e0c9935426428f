"""COCO-Stuff: its label maps of things and stuff, and panoptic annotations to learn from.

stuffthingmaps/<split>/*.png     a class's id less one, 255 void
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import check_size, read_values, relabelled, table_of
from ovseg_cli.stages.prepare.panoptic import (
    segments_info,
    write_panoptic_json,
    write_panoptic_png,
)
from ovseg_cli.stages.prepare.sources import Download, Prepared, required
from ovseg_cli.stages.prepare.work import Job, Record, make_records
from ovseg_cli.vocabulary import builtin_ids

FOLDER = "coco_stuff"
SPLITS = ("val2017", "train2017")
CLASSES = "coco_stuff_171"
_PAGE = "https://github.com/nightrome/cocostuff"
_COCO_PAGE = "https://cocodataset.org/#download"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Makes annotations/panoptic_<split>.json and its PNGs, a segment a class.

    Images that have no labelled pixel are left out. Where the images are not in the folder, those
    of coco/ beside it are linked.

    Args:
        folder: coco_stuff.
        splits: of `SPLITS`.
        workers: processes.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        archive = "stuffthingmaps_trainval2017.zip"
        part = Download(f"stuffthingmaps/{split}", _PAGE, archive, "stuffthingmaps")
        maps = sorted(required(folder, part).glob("*.png"))
        if not maps:
            raise InputError(f"{folder / part.path}: no label map here; unpack {archive} anew")
        images = _images(folder, split)
        counts[f"{split} panoptic"] = _panoptic(folder, split, maps, images, workers)
    return Prepared(folder, counts)


def _images(folder: Path, split: str) -> Path:
    images, beside = folder / split, folder.parent / "coco" / split
    if not images.exists() and beside.is_dir():
        try:
            os.symlink(Path("..") / "coco" / split, images, target_is_directory=True)
        except OSError as error:
            raise InputError(
                f"{images}: cannot be made a link to {beside} ({error.strerror}); copy the folder"
            ) from error
    return required(folder, Download(split, _COCO_PAGE, f"{split}.zip"))


def _panoptic(folder: Path, split: str, maps: Sequence[Path], images: Path, workers: int) -> int:
    file = folder / "annotations" / f"panoptic_{split}.json"
    if file.is_file():
        return len(maps)
    jobs = [
        Job((path, images / f"{path.stem}.jpg"), (file.with_suffix("") / path.name,))
        for path in maps
    ]
    journal = file.with_name(f".panoptic_{split}.jsonl")
    title = f"{FOLDER} {split}"
    records = make_records(jobs, convert_stuff, journal, title=title, workers=workers)
    write_panoptic_json(file, CLASSES, [record for record in records if record["segments_info"]])
    journal.unlink()
    return len(maps)


def convert_stuff(job: Job) -> Record:
    """Writes an image's panoptic PNG; a segment's id is its class's.

    Args:
        job: sources (label map, image), target the PNG.

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    path, image = job.sources
    labels = read_values(path)
    check_size(image, labels.shape)
    category_of = {number: number for number in builtin_ids(CLASSES)}
    ids = relabelled(labels, _table(), path)
    write_panoptic_png(job.targets[0], ids)
    return {
        "file_name": image.name,
        "png": job.targets[0].name,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "segments_info": segments_info(ids, category_of),
    }


def _table() -> np.ndarray:
    """Ids of the classes; the numbers between them that no class has are void."""
    ids = builtin_ids(CLASSES)
    void = dict.fromkeys([*range(max(ids)), 255], 0)
    return table_of(void | {number - 1: number for number in ids}, size=256)
