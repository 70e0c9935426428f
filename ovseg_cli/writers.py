"""Results as files: COCO panoptic PNG + JSON, RLE lines, semantic PNG, lines of errors.

Every file appears whole or not at all; what grows with the number of images is written as it comes.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from jaxtyping import Int
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from .errors import StorageError
from .storage import storage_errors, writing
from .structures import Instances, Segment, Vocabulary

PNG_COMPRESSION = 1  # small maps and drawings: six times faster than the default, 10 % larger
_LONGEST_STEM = 180  # bytes; file systems allow 255 with suffix and temporary name
_EIGHT_BIT_CLASSES = 255  # and void


class OutputNames:
    """A name for every input, different for each: stem, stem-2, stem-3, ...

    The names taken are on the disk, in a file that SQLite removes itself.
    """

    def __init__(self) -> None:
        self._taken = sqlite3.connect("", isolation_level=None)
        self._taken.execute("PRAGMA journal_mode = OFF")
        self._taken.execute("CREATE TABLE taken (name TEXT PRIMARY KEY, last INT) WITHOUT ROWID")

    def name_for(self, stem: str) -> str:
        """The stem, numbered where an earlier input had the same.

        Bytes that are no text are left out, long names are cut.

        Args:
            stem: a file's name without suffix.

        Raises:
            StorageError: no space left for the names taken.
        """
        stem = os.fsencode(stem)[:_LONGEST_STEM].decode("utf-8", "ignore") or "image"
        try:
            return self._free_name(stem)
        except sqlite3.OperationalError as error:
            raise StorageError(f"no space for the names of the results ({error})") from error

    def _free_name(self, stem: str) -> str:
        last = self._last_number(stem)
        if not last:
            self._take(stem, 1)
            return stem
        number = last + 1
        while self._last_number(f"{stem}-{number}"):
            number += 1
        self._take(stem, number)
        self._take(f"{stem}-{number}", 1)
        return f"{stem}-{number}"

    def _last_number(self, name: str) -> int:
        """The last number that was given for a name that is taken, 0 for one that is free."""
        found = "SELECT last FROM taken WHERE name = ?"
        row = self._taken.execute(found, (name.casefold(),)).fetchone()
        return row[0] if row else 0

    def _take(self, name: str, last: int) -> None:
        self._taken.execute("REPLACE INTO taken VALUES (?, ?)", (name.casefold(), last))

    def close(self) -> None:
        """Lets go of the names."""
        self._taken.close()


def write_png(path: Path, image: Image.Image) -> None:
    """Writes a picture.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    with writing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=PNG_COMPRESSION)


def panoptic_image(panoptic: Int[Tensor, "H W"]) -> Image.Image:
    """Segment ids as COCO stores them: id = R + 256 G + 65536 B, 0 is void.

    Args:
        panoptic: (H, W) segment ids, 0 to 2^24 - 1.
    """
    ids = panoptic.cpu().numpy()
    return Image.fromarray(np.stack([ids, ids >> 8, ids >> 16], axis=-1).astype(np.uint8))


def semantic_image(semantic: Int[Tensor, "H W"], classes: int) -> Image.Image:
    """Class indices from 0, 8 bits a pixel for up to 255 classes, otherwise 16.

    Void is the highest number that there is: 255, or 65535.

    Args:
        semantic: (H, W) class indices, -1 is void.
        classes: how many there are.

    Raises:
        ValueError: more classes than 16 bits can tell apart.
    """
    if classes >= 1 << 16:
        raise ValueError(f"{classes} classes do not fit into 16 bits")
    kind = np.uint8 if classes <= _EIGHT_BIT_CLASSES else np.uint16
    return Image.fromarray(semantic.cpu().numpy().astype(kind))


def panoptic_annotation(
    panoptic: Int[Tensor, "H W"],
    segments: Sequence[Segment],
    *,
    image_id: int,
    file_name: str,
    category_ids: Sequence[int],
) -> dict[str, Any]:
    """COCO's annotation of a panoptic map, with a score for every segment.

    Args:
        panoptic: (H, W) segment ids.
        segments: what the ids stand for.
        image_id: the image's id in the file.
        file_name: the PNG's name.
        category_ids: one a class.
    """
    ids = panoptic.cpu().numpy()
    return {
        "image_id": image_id,
        "file_name": file_name,
        "segments_info": [
            {
                "id": segment.id,
                "category_id": category_ids[segment.label],
                "iscrowd": 0,
                "area": segment.area,
                "bbox": _box(ids == segment.id),
                "score": round(segment.score, 5),
            }
            for segment in segments
        ],
    }


def rle_records(
    instances: Instances,
    *,
    image_id: int,
    file_name: str,
    category_ids: Sequence[int],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """COCO's result records, one an instance, masks as compressed RLE.

    Args:
        instances: scored masks.
        image_id: the image's id.
        file_name: the image's path as it was given.
        category_ids: one a class.
        names: one a class.
    """
    masks = instances.masks.cpu().numpy().view(np.uint8)
    rles = (coco_mask.encode(np.asfortranarray(mask)) for mask in masks)  # one at a time
    rows = zip(rles, instances.labels.tolist(), instances.scores.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[label],
            "category": names[label],
            "score": round(score, 5),
            "bbox": coco_mask.toBbox(rle).tolist(),
            "area": int(coco_mask.area(rle)),
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        for rle, label, score in rows
    ]


def categories(vocabulary: Vocabulary, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's categories: id, name, isthing, and our synonyms.

    Args:
        vocabulary: the classes.
        category_ids: one a class.
    """
    rows = zip(
        category_ids, vocabulary.names, vocabulary.is_thing, vocabulary.synonyms, strict=True
    )
    return [
        {"id": id_, "name": name, "isthing": int(thing), "synonyms": list(synonyms)}
        for id_, name, thing, synonyms in rows
    ]


class JsonLines:
    """Records in a file that is not there yet, a line each."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file = file
        self._path = path

    def add(self, record: dict[str, Any]) -> None:
        """Writes a record.

        Raises:
            StorageError: no space left.
        """
        with storage_errors(self._path):
            self._file.write(_json(record) + "\n")


@contextmanager
def json_lines(path: Path) -> Iterator[JsonLines]:
    """A file of JSON lines that appears when the block ends without an error.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield JsonLines(file, path)


class PanopticJson:
    """COCO's panoptic JSON on its way to the disk; images wait in a file of their own."""

    def __init__(self, file: IO[str], images: IO[str], path: Path) -> None:
        self._file = file
        self._images = images
        self._path = path
        self._separator = "\n"

    def add(self, image: dict[str, Any], annotation: dict[str, Any]) -> None:
        """Writes an image's record and annotation.

        Raises:
            StorageError: no space left.
        """
        with storage_errors(self._path):
            self._file.write(self._separator + _json(annotation))
            self._images.write(self._separator + _json(image))
        self._separator = ",\n"


@contextmanager
def panoptic_json(path: Path, classes: Sequence[dict[str, Any]]) -> Iterator[PanopticJson]:
    """COCO's panoptic JSON file, which appears when the block ends without an error.

    Args:
        path: where.
        classes: COCO's categories.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    with (
        writing(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8", dir=path.parent) as images,
    ):
        file.write(f'{{"categories": {_json(list(classes))},\n')
        file.write('"annotations": [')
        yield PanopticJson(file, images, path)
        file.write('],\n"images": [')
        images.seek(0)
        while block := images.read(1 << 20):
            file.write(block)
        file.write("]}\n")


def _json(value: Any) -> str:
    """Readable, but for file names that are no text: these are escaped, and come back as given."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _box(mask: np.ndarray) -> list[int]:
    """COCO's x, y, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
