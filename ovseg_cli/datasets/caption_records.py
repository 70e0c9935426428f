"""Images and their captions, one record after the other, in COCO's layout or in a list.

coco/<split>/*.jpg (or coco/images/<split>/) with coco/annotations/captions_<split>.json
photos/*.jpg with a file of captions anywhere:
  JSON lines   {"image": "a.jpg", "caption": "a dog"}  a caption a line, or "captions": [...]
  CSV, TSV     a header with the columns image (or filepath) and caption (or title)
  JSON         COCO's captions format
The captions of an image stand one after the other in a list; its records are never all in memory.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import read_rgb
from ovseg_cli.datasets.coco_files import captions_in, read_json, safe_name
from ovseg_cli.errors import InputError

IMAGE_COLUMNS = ("image", "filepath", "file_name", "filename")
CAPTION_COLUMNS = ("caption", "title")
ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class CaptionRecord:
    """An image and the sentences about it.

    Attributes:
        image: the file's name relative to the image folder, checked to stay inside it.
        image_id: COCO's id, or the image's place in the list, from 1.
        size: (height, width) in pixels; None where only the image says it.
        captions: one or more.
    """

    image: str
    image_id: int
    size: tuple[int, int] | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionSource:
    """Where captioned images come from; iterating gives a `CaptionRecord` each.

    Attributes:
        images: the folder of the image files.
        file: of the captions.
        split: of a dataset in COCO's layout; empty for a list.
    """

    images: Path
    file: Path
    split: str = ""

    def __iter__(self) -> Iterator[CaptionRecord]:
        """The records in the file's order.

        Raises:
            InputError: the file is missing or damaged; the place is named.
        """
        suffix = self.file.suffix.lower()
        if suffix == ".json":
            return _coco_records(self.file)
        return _listed_records(self.file, _json_rows if suffix == ".jsonl" else _table_rows)


def splits_with_captions(root: Path) -> tuple[str, ...]:
    """The names of the splits of a folder in COCO's layout that have captions.

    Args:
        root: holds `annotations/`.
    """
    names = sorted(path.stem for path in (Path(root) / "annotations").glob("captions_*.json"))
    return tuple(name.removeprefix("captions_") for name in names)


def coco_captions(root: Path, split: str) -> CaptionSource:
    """The captioned images of a split in COCO's layout.

    Args:
        root: holds `annotations/` and the image folders.
        split: such as `train2017`.

    Raises:
        InputError: there are no captions or no images of that split.
    """
    file = Path(root) / "annotations" / f"captions_{split}.json"
    if not file.is_file():
        there = ", ".join(splits_with_captions(root)) or "no split"
        raise InputError(f"{file}: no such file; captions are there for: {there}")
    folders = [Path(root) / split, Path(root) / "images" / split]
    found = [folder for folder in folders if folder.is_dir()]
    if not found:
        raise InputError(f"{folders[0]}: no such folder; it should hold the split's images")
    return CaptionSource(found[0], file, split)


def read_captioned_image(
    folder: Path, image: str, size: tuple[int, int] | None
) -> UInt8[Tensor, "3 H W"]:
    """An image as RGB, in the orientation of its size, upright where none is known.

    Args:
        folder: of the images.
        image: the file's name in it.
        size: (height, width) in pixels, as the record has it.

    Raises:
        InputError: the file is missing, damaged or of another size.
    """
    path = folder / image
    return read_rgb(path, size or upright_size(path))


def upright_size(path: Path) -> tuple[int, int]:
    """The (height, width) of an image file as it is shown, from its header.

    Raises:
        InputError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be read: {error}") from error


def _coco_records(path: Path) -> Iterator[CaptionRecord]:
    content = read_json(path)
    captions = captions_in(path, content)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise InputError(f"{path}: no list 'images'; is this COCO's captions format?")
    del content
    for i, image in enumerate(images):
        record = _coco_record(path, f"images[{i}]", image, captions)
        if record.captions:
            yield record


def _coco_record(
    path: Path, where: str, image: Any, captions: dict[int, tuple[str, ...]]
) -> CaptionRecord:
    image_id, name = (image.get(k) for k in ("id", "file_name")) if _is(image) else (None, None)
    if not isinstance(image_id, int) or not isinstance(name, str):
        raise InputError(f"{path}: {where} has no integer 'id' or no 'file_name'")
    size = (image.get("height"), image.get("width"))
    known = all(isinstance(side, int) and side > 0 for side in size)
    texts = captions.get(image_id, ())
    return CaptionRecord(safe_name(path, where, name), image_id, size if known else None, texts)


def _is(image: Any) -> bool:
    return isinstance(image, dict)


def _listed_records(path: Path, rows_of: Any) -> Iterator[CaptionRecord]:
    """Records of neighbouring rows of an image; one that comes back later is refused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            seen: set[bytes] = set()
            groups = groupby(rows_of(path, file), key=lambda row: row[1])
            for number, (image, rows) in enumerate(groups, start=1):
                where, _, first = next(rows)
                mark = blake2b(image.encode(errors="surrogateescape"), digest_size=8).digest()
                if mark in seen:
                    raise InputError(
                        f"{path}: {where}: captions of {image!r} stand apart; sort the list by "
                        "image, so that each image's captions stand together"
                    )
                seen.add(mark)
                texts = [*first, *(text for _, _, more in rows for text in more)]
                yield CaptionRecord(safe_name(path, where, image), number, None, tuple(texts))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of captions") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a list of captions: {error}") from error


def _json_rows(path: Path, file: IO[str]) -> Iterator[tuple[str, str, list[str]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: {where} is not valid JSON: {error}") from error
        image = entry.get("image") if isinstance(entry, dict) else None
        texts: Any = None
        if isinstance(entry, dict):
            texts = entry.get("captions", [entry.get("caption")])
        if not isinstance(image, str) or not _are_texts(texts):
            raise InputError(f"{path}: {where} needs an 'image' and a 'caption', both text")
        yield where, image, texts


def _table_rows(path: Path, file: IO[str]) -> Iterator[tuple[str, str, list[str]]]:
    first = file.readline()
    delimiter = "\t" if "\t" in first else ","
    header = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
    image, caption = _column(header, IMAGE_COLUMNS), _column(header, CAPTION_COLUMNS)
    if image is None or caption is None:
        raise InputError(
            f"{path}: the first line should name the columns image and caption, found "
            f"{', '.join(header)[:80]!r}; give a .jsonl, .csv or .tsv file"
        )
    rows = csv.reader(file, delimiter=delimiter)
    for row in rows:
        where = f"line {rows.line_num + 1}"
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{path}: {where} has {len(row)} columns, the header {len(header)}")
        yield where, row[image], [row[caption]]


def _column(header: list[str], names: Iterable[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _are_texts(texts: Any) -> bool:
    return isinstance(texts, list) and bool(texts) and all(isinstance(t, str) for t in texts)
