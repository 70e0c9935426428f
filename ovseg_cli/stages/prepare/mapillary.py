"""Mapillary Vistas 1.2, which is read as it is: panoptic annotations in COCO's format."""

from collections.abc import Sequence
from pathlib import Path

from ovseg_cli.datasets.coco_files import read_annotations
from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.sources import Download, Prepared, required
from ovseg_cli.vocabulary import builtin_ids

FOLDER = "mapillary_vistas"
SPLITS = ("validation", "training")
CLASSES = "mapillary_65"
_PAGE = "https://www.mapillary.com/dataset/vistas"
_ARCHIVE = "mapillary-vistas-dataset_public_v1.2.zip"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Unpacks the archive and sees that every image and panoptic PNG is there.

    Args:
        folder: mapillary_vistas.
        splits: of `SPLITS`.
        workers: not used; unpacking waits for the disk.

    Raises:
        InputError: a download is not there, is of another version, or lacks a file; the first one
            is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        name = f"{split}/panoptic/panoptic_2018.json"
        file = required(folder, Download(name, _PAGE, _ARCHIVE))
        content = read_annotations(file, "panoptic")
        if tuple(content.class_of) != builtin_ids(CLASSES):
            raise InputError(f"{file}: not the 65 classes of version 1.2; get it from {_PAGE}")
        for record in content.records:
            for path in (
                folder / split / "images" / record.file_name,
                file.parent / str(record.panoptic_file),
            ):
                if not path.is_file():
                    raise InputError(f"{path}: no such file; unpack {_ARCHIVE} anew")
        counts[f"{split} panoptic"] = len(content.records)
    return Prepared(folder, counts)
