"""COCO and LVIS: archives unpacked where the readers look, and whether all parts are there."""

from collections.abc import Sequence
from pathlib import Path

from ovseg_cli.datasets.coco_files import read_annotations
from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.sources import Download, Prepared, files_in, required

FOLDER = "coco"
SPLITS = ("val2017", "train2017")
LVIS_SPLITS = ("val", "train")
_PAGE = "https://cocodataset.org/#download"
_LVIS_PAGE = "https://www.lvisdataset.org/dataset"
_OF_KIND = {
    "panoptic": "panoptic_annotations_trainval2017.zip",
    "instances": "annotations_trainval2017.zip",
    "captions": "annotations_trainval2017.zip",
}


def prepare(folder: Path, splits: Sequence[str], workers: int, *, kind: str) -> Prepared:
    """Unpacks images and annotations, with the panoptic PNGs, whose archive is in an archive.

    Args:
        folder: coco.
        splits: of `SPLITS`.
        workers: not used; unpacking waits for the disk.
        kind: panoptic, instances or captions.

    Raises:
        InputError: a download is not there, or an archive is damaged.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        file = f"annotations/{kind}_{split}.json"
        required(folder, Download(file, _PAGE, _OF_KIND[kind]))
        images = required(folder, Download(split, _PAGE, f"{split}.zip"))
        counts[f"{split} images"] = len(files_in(images, "*.jpg", f"{split}.zip"))
        if kind == "panoptic":
            pngs = files_in(_pngs(folder, split), "*.png", f"panoptic_{split}.zip")
            counts[f"{split} panoptic"] = len(pngs)
    return Prepared(folder, counts)


def prepare_lvis(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Unpacks LVIS's annotations and sees that every image of them is there.

    Its val images are partly COCO's train images.

    Args:
        folder: coco.
        splits: of `LVIS_SPLITS`.
        workers: not used; unpacking waits for the disk.

    Raises:
        InputError: a download is not there, or an archive is damaged; the first image that is
            missing is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        name = f"lvis_v1_{split}.json"
        part = Download(f"annotations/{name}", _LVIS_PAGE, f"{name}.zip", "annotations")
        file = required(folder, part)
        for image_split in SPLITS:
            required(folder, Download(image_split, _PAGE, f"{image_split}.zip"))
        records = read_annotations(file, "instances").records
        missing = [r.file_name for r in records if not (folder / r.file_name).is_file()]
        if missing:
            raise InputError(
                f"{folder / missing[0]}: no such image, and {len(missing) - 1:,} more of "
                f"{file.name} are missing; get train2017.zip and val2017.zip from {_PAGE}"
            )
        counts[f"{split} images"] = len(records)
    return Prepared(folder, counts)


def _pngs(folder: Path, split: str) -> Path:
    """The panoptic PNGs, beside the annotations or, as Mask2Former has them, beside the images."""
    name = f"panoptic_{split}"
    if (folder / name).is_dir():
        return folder / name
    annotations = folder / "annotations"
    return required(annotations, Download(name, _PAGE, f"{name}.zip"))
