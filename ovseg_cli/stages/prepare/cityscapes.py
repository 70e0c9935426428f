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
from ovseg_cli.stages.prepare.panoptic import (
    segments_info,
    write_panoptic_json,
    write_panoptic_png,
)
from ovseg_cli.stages.prepare.sources import Download, Prepared, required
from ovseg_cli.stages.prepare.work import Job, Record, make_records
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

FOLDER = "cityscapes"
SPLITS = ("val", "train")
CLASSES = "cityscapes_19"
NUMBERS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of labels
LABELS = 34  # all that there are, from 0; those that are not scored are void
_PAGE = "https://www.cityscapes-dataset.com/downloads"
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
        part = Download(f"gtFine/{split}", _PAGE, "gtFine_trainvaltest.zip")
        maps = sorted(required(folder, part).glob(f"*/*{_MAP}"))
        if not maps:
            raise InputError(f"{folder / part.path}: no */*{_MAP}; unpack {part.archive} anew")
        part = Download(f"leftImg8bit/{split}", _PAGE, "leftImg8bit_trainvaltest.zip")
        counts[f"{split} panoptic"] = _panoptic(
            folder, split, maps, required(folder, part), workers
        )
    return Prepared(folder, counts)


def _panoptic(folder: Path, split: str, maps: Sequence[Path], images: Path, workers: int) -> int:
    file = folder / "annotations" / f"panoptic_{split}.json"
    if file.is_file():
        return len(maps)
    stems = [path.name.removesuffix(_MAP) for path in maps]
    jobs = [
        Job(
            (path, images / path.parent.name / f"{stem}{_IMAGE}"),
            (file.with_suffix("") / f"{stem}.png",),
        )
        for path, stem in zip(maps, stems, strict=True)
    ]
    journal = file.with_name(f".panoptic_{split}.jsonl")
    records = make_records(
        jobs, convert_street, journal, title=f"{FOLDER} {split}", workers=workers
    )
    write_panoptic_json(file, CLASSES, records)
    journal.unlink()
    return len(records)


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
    write_panoptic_png(job.targets[0], ids)
    return {
        "file_name": f"{image.parent.name}/{image.name}",
        "png": job.targets[0].name,
        "height": values.shape[0],
        "width": values.shape[1],
        "segments_info": segments_info(ids, category_of, groups),
    }


@cache
def class_of() -> dict[int, int]:
    """The category id of each label that is scored."""
    return dict(zip(NUMBERS, builtin_ids(CLASSES), strict=True))
