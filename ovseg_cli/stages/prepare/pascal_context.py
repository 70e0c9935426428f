"""PASCAL Context: label maps of its 459 classes, and of the 59 most frequent ones.

pascal_context_full/trainval/*.mat    `LabelMap`, 0 is void, 1 to 459 the classes by labels.txt
VOCdevkit/VOC2010/JPEGImages          the images
VOCdevkit/VOC2010/ImageSets/Main      the splits, 4,998 images to train and 5,105 to score
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ovseg_cli.stages.prepare.label_maps import check_size, relabelled, table_of, write_map
from ovseg_cli.stages.prepare.matlab import read_matrix
from ovseg_cli.stages.prepare.pascal_voc import listed_names
from ovseg_cli.stages.prepare.sources import Download, Prepared, required
from ovseg_cli.stages.prepare.work import Job, link_or_copy, make_files
from ovseg_cli.storage import write_text
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

FOLDER = "pascal_context_full"
SPLITS = ("val", "train")
RENAMED = {"diningtable": "table"}  # the 59 classes' names that the 459 do not have
_SOURCE = "VOCdevkit/VOC2010"
_VOC_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/"
_VOC_ARCHIVE = "VOCtrainval_03-May-2010.tar"
_PAGE = "https://cs.stanford.edu/~roozbeh/pascal-context/"


def prepare(folder: Path, splits: Sequence[str], workers: int, *, classes: int) -> Prepared:
    """Makes images/, labels_59/ or labels_459/, and <split>.txt with the names.

    Args:
        folder: pascal_context_full, beside VOCdevkit.
        splits: of `SPLITS`.
        workers: processes.
        classes: 59 or 459.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    source = folder.parent / _SOURCE
    kind, ending = ("uint8", "png") if classes == 59 else ("uint16", "tif")
    convert = partial(convert_context, table=value_table(classes), kind=kind)
    counts: dict[str, int] = {}
    for split in splits:
        path = f"../{_SOURCE}/ImageSets/Main/{split}.txt"
        names = listed_names(required(folder, Download(path, _VOC_PAGE, _VOC_ARCHIVE, "..")))
        maps = required(folder, Download("trainval", _PAGE, "trainval.tar.gz"))
        jobs = [
            Job(
                (maps / f"{name}.mat", source / "JPEGImages" / f"{name}.jpg"),
                (folder / f"labels_{classes}/{name}.{ending}", folder / f"images/{name}.jpg"),
            )
            for name in names
        ]
        title = f"PASCAL Context {classes} {split}"
        make_files(jobs, convert, title=title, workers=workers)
        write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in names))
        counts[f"{split} label maps"] = len(jobs)
    return Prepared(folder, counts)


def convert_context(job: Job, *, table: np.ndarray, kind: str) -> None:
    """Writes the label map of an image, and the image beside it.

    Args:
        job: sources (.mat, image), targets (map, image).
        table: see `table_of`.
        kind: of the new map's pixels, uint8 or uint16.

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    annotation, image = job.sources
    labels = read_matrix(annotation, "LabelMap")
    check_size(image, labels.shape)
    link_or_copy(image, job.targets[1])
    write_map(job.targets[0], relabelled(labels, table, annotation).astype(kind))


def value_table(classes: int) -> np.ndarray:
    """The class of each value of `LabelMap`: 0 and what is of no class are void.

    Args:
        classes: 59 or 459.
    """
    all_names = builtin_vocabulary("pascal_context_459").names
    if classes == len(all_names):
        values = dict(zip(range(1, 460), builtin_ids("pascal_context_459"), strict=True))
        return table_of({0: 65535} | values, size=460)
    names = [RENAMED.get(name, name) for name in builtin_vocabulary("pascal_context_59").names]
    values = {all_names.index(name) + 1: index for index, name in enumerate(names)}
    return table_of(dict.fromkeys(range(460), 255) | values, size=460)
