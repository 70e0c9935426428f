"""`ovseg datasets prepare`: the datasets that can be prepared, by the names of `datasets list`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ovseg_cli.datasets.known import known_dataset
from ovseg_cli.errors import UsageError
from ovseg_cli.stages.prepare import (
    ade20k,
    ade20k_full,
    ade20k_instances,
    cityscapes,
    coco,
    coco_stuff,
    mapillary,
    pascal_context,
    pascal_voc,
)
from ovseg_cli.stages.prepare.sources import Prepared


@dataclass(frozen=True)
class Preparation:
    """How a dataset is prepared.

    Attributes:
        folder: the dataset's, below the folder of all data.
        splits: all that there are.
        usual: how many of them, from the first, are prepared where none is named.
        make: makes what is missing.
    """

    folder: str
    splits: tuple[str, ...]
    usual: int
    make: Callable[[Path, Sequence[str], int], Prepared]


_COCO = (coco.FOLDER, coco.SPLITS, 2)
_CONTEXT = (pascal_context.FOLDER, pascal_context.SPLITS, 1)
_VOC = (pascal_voc.FOLDER, pascal_voc.SPLITS, 1)
_ADE20K = Preparation(ade20k_instances.FOLDER, ade20k.SPLITS, 2, ade20k.prepare)
PREPARATIONS = {
    "coco_panoptic": Preparation(*_COCO, partial(coco.prepare, kind="panoptic")),
    "coco_instances": Preparation(*_COCO, partial(coco.prepare, kind="instances")),
    "coco_captions": Preparation(*_COCO, partial(coco.prepare, kind="captions")),
    "coco_stuff": Preparation(coco_stuff.FOLDER, coco_stuff.SPLITS, 2, coco_stuff.prepare),
    "lvis": Preparation(coco.FOLDER, coco.LVIS_SPLITS, 1, coco.prepare_lvis),
    "ade20k_150": _ADE20K,
    "ade20k_150_instances": _ADE20K,
    "ade20k_150_semantic": _ADE20K,
    "ade20k_847": Preparation(ade20k_full.FOLDER, ade20k_full.SPLITS, 1, ade20k_full.prepare),
    "cityscapes": Preparation(cityscapes.FOLDER, cityscapes.SPLITS, 1, cityscapes.prepare),
    "pascal_context_59": Preparation(*_CONTEXT, partial(pascal_context.prepare, classes=59)),
    "pascal_context_459": Preparation(*_CONTEXT, partial(pascal_context.prepare, classes=459)),
    "pascal_voc_20": Preparation(*_VOC, partial(pascal_voc.prepare, with_background=False)),
    "pascal_voc_21": Preparation(*_VOC, partial(pascal_voc.prepare, with_background=True)),
    "mapillary": Preparation(mapillary.FOLDER, mapillary.SPLITS, 1, mapillary.prepare),
}


def prepare(name: str, data: Path, *, splits: Sequence[str] = (), workers: int = 0) -> Prepared:
    """Makes what is missing of a dataset; stopped and started again it goes on.

    Args:
        name: of a known dataset.
        data: the folder that holds all datasets.
        splits: which to prepare; none for the usual ones.
        workers: processes; 0 for one a core where there are many images.

    Raises:
        UsageError: no such folder, dataset or split, or a negative number of workers.
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    chosen = PREPARATIONS[known_dataset(name).name]
    if not data.is_dir():
        raise UsageError(f"--data {data}: no such folder; name the one that holds the datasets")
    for split in splits:
        if split not in chosen.splits:
            raise UsageError(f"--split {split}: {name} has {', '.join(chosen.splits)}")
    return chosen.make(data / chosen.folder, splits or chosen.splits[: chosen.usual], workers)
