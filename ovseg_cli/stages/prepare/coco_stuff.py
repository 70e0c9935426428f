"""COCO-Stuff: its label maps of things and stuff, and panoptic annotations to learn from.

stuffthingmaps/<split>/*.png     a class's id less one, 255 void
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import check_size, read_values, relabelled, table_of
from ovseg_cli.stages.prepare.panoptic import make_panoptic, panoptic_record
from ovseg_cli.stages.prepare.sources import Download, Prepared, files_in, required
from ovseg_cli.stages.prepare.work import Job, Record
from ovseg_cli.vocabulary import builtin_ids

FOLDER = "coco_stuff"
SPLITS = ("val2017", "train2017")
CLASSES = "coco_stuff_171"
_PAGE = "https://github.com/nightrome/cocostuff"
_ARCHIVE = "stuffthingmaps_trainval2017.zip"
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
        part = Download(f"stuffthingmaps/{split}", _PAGE, _ARCHIVE, "stuffthingmaps")
        maps = files_in(required(folder, part), "*.png", _ARCHIVE)
        images = _images(folder, split)
        file = folder / "annotations" / f"panoptic_{split}.json"
        pngs = file.with_suffix("")
        jobs = [Job((path, images / f"{path.stem}.jpg"), (pngs / path.name,)) for path in maps]
        title = f"{FOLDER} {split}"
        make_panoptic(file, jobs, convert_stuff, CLASSES, title=title, workers=workers)
        counts[f"{split} panoptic"] = len(jobs)
    return Prepared(folder, counts)


def _images(folder: Path, split: str) -> Path:
    images, beside = folder / split, folder.parent / "coco" / split
    if not images.exists() and beside.is_dir():
        try:
            place = os.path.relpath(beside.resolve(), folder.resolve())
            os.symlink(place, images, target_is_directory=True)
        except (OSError, ValueError) as error:  # ValueError: on another drive of Windows
            raise InputError(
                f"{images}: cannot be made a link to {beside} ({error}); copy the folder"
            ) from error
    return required(folder, Download(split, _COCO_PAGE, f"{split}.zip"))


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
    return panoptic_record(job.targets[0], image.name, ids, category_of)


def _table() -> np.ndarray:
    """Ids of the classes; the numbers between them that no class has are void."""
    ids = builtin_ids(CLASSES)
    void = dict.fromkeys([*range(max(ids)), 255], 0)
    return table_of(void | {number - 1: number for number in ids}, size=256)
