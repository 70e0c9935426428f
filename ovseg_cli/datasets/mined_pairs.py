"""Mined mask-noun pairs as `ovseg mine-captions` writes them, one at a time from the disk.

pairs/shard-00000.jsonl   {"image", "image_id", "caption", "noun", "segmentation": {"size",
                          "counts"}, "box": [x0, y0, x1, y1], "score", "area"} a line
pairs/manifest.json       where the images are, and what the pairs were made with
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Bool, UInt8
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import read_rgb, run_length_mask
from ovseg_cli.errors import InputError

MEND = "make the pairs again with 'ovseg mine-captions'"


@dataclass(frozen=True)
class MinedPair:
    """A noun and the mask that it was given.

    Attributes:
        image: the file's name relative to the image folder.
        image_id: the image's id.
        caption: index of the caption, among those of the image, in which the noun first stands.
        noun: one word or a compound, in lower case.
        segmentation: COCO's run lengths, {"size": [H, W], "counts": packed}.
        box: x0, y0, x1, y1 in pixels, right and bottom exclusive.
        score: cosine of masked crop and noun, -1 to 1.
        area: of the mask in pixels.
    """

    image: str
    image_id: int
    caption: int
    noun: str
    segmentation: dict[str, Any]
    box: tuple[int, int, int, int]
    score: float
    area: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        height, width = self.segmentation["size"]
        return (int(height), int(width))

    def mask(self) -> Bool[Tensor, "H W"]:
        """True inside.

        Raises:
            InputError: the run lengths are damaged.
        """
        return run_length_mask(self.segmentation, self.size)


class MinedPairs:
    """All pairs of a folder; only where each of them is stays in memory, and its noun."""

    def __init__(self, folder: Path, *, images: Path | None = None) -> None:
        """Looks through the shards once.

        Args:
            folder: such as `run/pairs`.
            images: the folder of the images, instead of the one that the manifest names.

        Raises:
            InputError: there are no pairs, they are not finished, or a file is damaged.
        """
        self.folder = Path(folder)
        if not (self.folder / "statistics.json").is_file():
            raise InputError(
                f"{self.folder}: no finished pairs there; make them with 'ovseg mine-captions DIR "
                f"--run {self.folder.parent}'"
            )
        self._shards = sorted(self.folder.glob("shard-*.jsonl"))
        self._starts, self._shard_of, self._noun_of = array("Q"), array("I"), array("I")
        self._index()
        self.images = Path(images) if images is not None else self._image_folder()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> MinedPair:
        """The pair of an index; negative ones and slices are not known.

        Raises:
            IndexError: there are fewer pairs.
            InputError: the shard has changed since it was looked through.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        path = self._shards[self._shard_of[index]]
        with path.open("rb") as file:
            file.seek(self._starts[index])
            return _pair(path, file.readline())

    def __iter__(self) -> Iterator[MinedPair]:
        """All pairs in the order of the shards; those of an image stand together."""
        for path in self._shards:
            with path.open("rb") as file:
                for line in file:
                    yield _pair(path, line)

    def noun(self, index: int) -> str:
        """The noun of a pair, from memory."""
        return self.nouns[self._noun_of[index]]

    def pixels(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """The whole image of a pair as RGB.

        Raises:
            InputError: the image is missing, damaged or of another size.
        """
        return self.pixels_of(self[index])

    def pixels_of(self, pair: MinedPair) -> UInt8[Tensor, "3 H W"]:
        """The whole image of a pair that is read already."""
        return read_rgb(self.images / pair.image, pair.size)

    def mask(self, index: int) -> Bool[Tensor, "H W"]:
        """The mask of a pair, True inside."""
        return self[index].mask()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the pairs were made from and with.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.folder / "manifest.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: missing or damaged ({error}); {MEND}") from error

    def _index(self) -> None:
        numbers: dict[str, int] = {}
        for number, path in enumerate(self._shards):
            start = 0
            with path.open("rb") as file:
                for line in file:
                    noun = _pair(path, line).noun
                    self._starts.append(start)
                    self._shard_of.append(number)
                    self._noun_of.append(numbers.setdefault(noun, len(numbers)))
                    start += len(line)
        self.nouns = tuple(numbers)

    def _image_folder(self) -> Path:
        folder = Path(str(self.manifest.get("images")))
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; the pairs in {self.folder} name its images"
            )
        return folder


def _pair(path: Path, line: bytes) -> MinedPair:
    try:
        record = json.loads(line)
        return MinedPair(**{**record, "box": tuple(record["box"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: a line is no mined pair ({error}); {MEND}") from error
