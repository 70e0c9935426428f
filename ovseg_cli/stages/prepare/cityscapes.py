"""Cityscapes, fine annotations: panoptic annotations of 8 things and 11 stuff.

gtFine/<split>/<city>/*_gtFine_instanceIds.png     a label's number, or 1000 times it and an
                                                   instance's; things without one are groups
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import check_size, read_values
from ovseg_cli.stages.prepare.panoptic import make_panoptic, panoptic_record
from ovseg_cli.stages.prepare.sources import Download, Prepared, files_in, required
from ovseg_cli.stages.prepare.work import Job, Record
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

FOLDER = "cityscapes"
SPLITS = ("val", "train")
CLASSES = "cityscapes_19"
NUMBERS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of labels
LABELS = 34  # all that there are, from 0; those that are not scored are void
_PAGE = "https://www.cityscapes-dataset.com/downloads"
_MAPS, _IMAGES = "gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip"
_MAP = "_gtFine_instanceIds.png"
_IMAGE = "_leftImg8bit.png"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Makes annotations/panoptic_<split>.json and its PNGs.

    Args:
        folder: cityscapes.
        splits: of `SPLITS`.
        workers: processes.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        part = Download(f"gtFine/{split}", _PAGE, _MAPS)
        maps = files_in(required(folder, part), f"*/*{_MAP}", _MAPS)
        images = required(folder, Download(f"leftImg8bit/{split}", _PAGE, _IMAGES))
        file = folder / "annotations" / f"panoptic_{split}.json"
        jobs = [_job(path, images, file.with_suffix("")) for path in maps]
        title = f"{FOLDER} {split}"
        make_panoptic(file, jobs, convert_street, CLASSES, title=title, workers=workers)
        counts[f"{split} panoptic"] = len(jobs)
    return Prepared(folder, counts)


def _job(path: Path, images: Path, pngs: Path) -> Job:
    stem = path.name.removesuffix(_MAP)
    return Job((path, images / path.parent.name / f"{stem}{_IMAGE}"), (pngs / f"{stem}.png",))


def convert_street(job: Job) -> Record:
    """Writes an image's panoptic PNG; a segment's id is the instance map's own value.

    Args:
        job: sources (instance map, image), target the PNG.

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    path, image = job.sources
    values = read_values(path)
    check_size(image, values.shape)
    labels = np.where(values < 1000, values, values // 1000)
    if values.ndim != 2 or values.min() < 0 or labels.max() >= LABELS:
        raise InputError(f"{path}: no map of Cityscapes' instance numbers")
    ids = np.where(np.isin(labels, NUMBERS), values, 0)
    category_of = {int(v): class_of()[v if v < 1000 else v // 1000] for v in np.unique(ids) if v}
    is_thing = builtin_vocabulary(CLASSES).is_thing
    groups = [v for v, category in category_of.items() if v < 1000 and is_thing[category]]
    name = f"{image.parent.name}/{image.name}"
    return panoptic_record(job.targets[0], name, ids, category_of, groups)


@cache
def class_of() -> dict[int, int]:
    """The category id of each label that is scored."""
    return dict(zip(NUMBERS, builtin_ids(CLASSES), strict=True))
