"""PASCAL VOC 2012: label maps of the 20 classes, and of 21 with the background.

VOCdevkit/VOC2012/SegmentationClass/*.png     0 is background, 1 to 20 the classes, 255 void
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import convert_map, table_of
from ovseg_cli.stages.prepare.sources import Download, Prepared, required
from ovseg_cli.stages.prepare.work import Job, make_files

FOLDER = "pascal_voc_d2"
SPLITS = ("val", "train")
_SOURCE = "VOCdevkit/VOC2012"
_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_ARCHIVE = "VOCtrainval_11-May-2012.tar"
_BACKGROUND = 0


def prepare(
    folder: Path, splits: Sequence[str], workers: int, *, with_background: bool
) -> Prepared:
    """Makes images/<split>/ and annotations_pascal20/<split>/ or annotations_pascal21/<split>/.

    Args:
        folder: pascal_voc_d2, beside VOCdevkit.
        splits: of `SPLITS`.
        workers: processes.
        with_background: what is of no class is one more class, the first; else it is void.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    table = _table(with_background)
    maps = "annotations_pascal21" if with_background else "annotations_pascal20"
    counts: dict[str, int] = {}
    for split in splits:
        path = f"../{_SOURCE}/ImageSets/Segmentation/{split}.txt"
        names = listed_names(required(folder, Download(path, _PAGE, _ARCHIVE, "..")))
        source = folder.parent / _SOURCE
        jobs = [
            Job(
                (source / "SegmentationClass" / f"{name}.png", source / f"JPEGImages/{name}.jpg"),
                (folder / maps / split / f"{name}.png", folder / "images" / split / f"{name}.jpg"),
            )
            for name in names
        ]
        convert = partial(convert_map, table=table)
        make_files(jobs, convert, title=f"VOC 2012 {split}", workers=workers)
        counts[f"{split} label maps"] = len(jobs)
    return Prepared(folder, counts)


def listed_names(path: Path) -> list[str]:
    """The images of a list of the VOC challenges, a name a line.

    Raises:
        InputError: the list cannot be read, or is empty.
    """
    try:
        names = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of images: {error}") from error
    if not names:
        raise InputError(f"{path}: the list of images is empty")
    return names


def _table(with_background: bool) -> np.ndarray:
    if with_background:
        return table_of({value: value for value in [*range(21), 255]}, size=256)
    values = {value: value - 1 for value in range(1, 21)}
    return table_of(values | {_BACKGROUND: 255, 255: 255}, size=256)
