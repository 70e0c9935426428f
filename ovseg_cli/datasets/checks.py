"""Whether an image and its annotations can be used: everything is read, nothing is kept."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ovseg_cli.datasets.annotated_masks import (
    instance_area,
    read_label_map,
    read_panoptic_ids,
    read_rgb,
)
from ovseg_cli.datasets.caption_records import upright_size
from ovseg_cli.datasets.coco_files import ImageRecord
from ovseg_cli.errors import InputError


@dataclass(frozen=True)
class Found:
    """What is annotated in an image.

    Attributes:
        categories: how many annotations have each category id; of a label map, each class index.
        empty: annotations without a pixel.
    """

    categories: Counter[int]
    empty: int = 0


@runtime_checkable
class ImageCheck(Protocol):
    """An image with its annotations, small enough to be handed to another process."""

    def run(self) -> Found:
        """Reads all of it.

        Raises:
            InputError: a file or annotation that cannot be used.
        """


@dataclass(frozen=True)
class InstanceCheck:
    """An image with COCO's instance annotations.

    Attributes:
        image: its file.
        record: its size and annotations.
        file: the annotation file, for messages.
    """

    image: Path
    record: ImageRecord
    file: Path

    def run(self) -> Found:
        """Reads the image and validates every segmentation and box."""
        read_rgb(self.image, self.record.size)
        areas = [self._area(entry) for entry in self.record.segments]
        return Found(_categories(self.record.segments), areas.count(0))

    def _area(self, entry: dict[str, Any]) -> int:
        try:
            _check_box(entry)
            return instance_area(entry.get("segmentation"), self.record.size)
        except InputError as error:
            raise InputError(f"{self.file}: annotation {entry['id']}: {error}") from error


@dataclass(frozen=True)
class PanopticCheck:
    """An image with a panoptic PNG.

    Attributes:
        image: its file.
        record: its size and segments.
        file: the annotation file, for messages.
        png: the PNG; None where the image is not annotated.
    """

    image: Path
    record: ImageRecord
    file: Path
    png: Path | None

    def run(self) -> Found:
        """Reads image and PNG, and compares the PNG's segments and areas with the file's."""
        read_rgb(self.image, self.record.size)
        if self.png is not None:
            ids, areas = np.unique(
                read_panoptic_ids(self.png, self.record.size), return_counts=True
            )
            found = dict(zip(ids.tolist(), areas.tolist(), strict=True))
            found.pop(0, None)
            self._compare(found, self.png)
        return Found(_categories(self.record.segments))

    def _compare(self, areas: dict[int, int], png: Path) -> None:
        for segment in self.record.segments:
            pixels = areas.pop(segment["id"], 0)
            if not pixels:
                raise InputError(f"{png}: segment {segment['id']} has no pixel in the PNG")
            said = segment.get("area", pixels)
            if said != pixels:
                raise InputError(
                    f"{self.file}: segment {segment['id']} of {png.name}: 'area' is {said}, the "
                    f"PNG has {pixels} pixels"
                )
        if areas:
            unlisted = min(areas)
            raise InputError(f"{png}: segment {unlisted} of the PNG is not in 'segments_info'")


@dataclass(frozen=True)
class MapCheck:
    """An image with a label map.

    Attributes:
        image: its file.
        label_map: the map's, None where there is none.
        classes: how many there are.
        values: of the pixels of each class; None for the class's index.
    """

    image: Path
    label_map: Path | None
    classes: int
    values: tuple[int, ...] | None

    def run(self) -> Found:
        """Reads both; every pixel is a class's, void, or 0 where no class has that."""
        if self.label_map is None:
            read_rgb(self.image, upright_size(self.image))
            return Found(Counter())
        found = read_label_map(self.label_map)
        read_rgb(self.image, (found.shape[0], found.shape[1]))
        values = range(self.classes) if self.values is None else self.values
        index_of = {value: index for index, value in enumerate(values)}
        there = set(found.unique().tolist()) - {-1}
        strange = sorted(there - set(index_of) - (set() if self.values is None else {0}))
        if strange:
            raise InputError(
                f"{self.label_map}: value {strange[0]} is of none of the {self.classes} classes; "
                f"they are {_shown(values)}"
            )
        return Found(Counter(index_of[value] for value in there if value in index_of))


@dataclass(frozen=True)
class CaptionCheck:
    """An image with captions.

    Attributes:
        image: its file.
        size: (height, width) in pixels, None where only the image says it.
        file: of the captions, for messages.
        captions: the sentences about it.
    """

    image: Path
    size: tuple[int, int] | None
    file: Path
    captions: tuple[str, ...]

    def run(self) -> Found:
        """Reads the image; a caption has words."""
        read_rgb(self.image, self.size or upright_size(self.image))
        if not all(text.strip() for text in self.captions):
            raise InputError(f"{self.file}: {self.image.name} has an empty caption")
        return Found(Counter())


def check_repeats(file: Path, key: str, values: Sequence[object]) -> None:
    """Refuses a value that stands twice.

    Raises:
        InputError: the first one that does.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise InputError(f"{file}: {key} {value} is there twice")
        seen.add(value)


def _categories(segments: Sequence[dict[str, Any]]) -> Counter[int]:
    return Counter(segment["category_id"] for segment in segments)


def _check_box(entry: dict[str, Any]) -> None:
    box = entry.get("bbox", [0, 0, 0, 0])
    numbers = isinstance(box, list) and all(isinstance(v, int | float) for v in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise InputError("'bbox' is not x, y, width and height")


def _shown(values: Sequence[int]) -> str:
    whole = list(values) == list(range(values[0], values[0] + len(values)))
    return f"{values[0]} to {values[-1]}" if whole else ", ".join(map(str, values))
