"""Masks from files as proposals: those of any other program, or of an earlier prediction.

Two layouts are understood. A folder with `NAME.json` for each image `NAME.jpg`, a list of records,
as Segment Anything's own script writes with run lengths (Kirillov et al., ICCV 2023). And a file of
JSON lines for all images, a record a line with the image's `file_name`, as `ovseg predict --task
instance` writes them to instances.jsonl; an image without a line has no masks. A record has COCO's
run lengths in `segmentation` and its score in `score` or `predicted_iou`, 1 where it has neither.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt

from ..datasets.annotated_masks import run_length_mask
from ..errors import InputError, RecipeError
from ..structures import FramedImage, Proposals
from .ground_truth import given_proposals


class FolderMasks:
    """Looks masks up by the image's name, without folders and ending."""

    def __init__(self, *, root: str, stride: PositiveInt = 4) -> None:
        """Finds out which files there are; lines are counted, and read when they are asked for.

        Args:
            root: the folder of NAME.json files, or a file of JSON lines.
            stride: pixels of the padded image that a mask logit covers, a divisor of 32.

        Raises:
            RecipeError: there is no such folder or file, or the stride fits no image.
            InputError: a line that is no record of a mask, or two images of one name.
        """
        if 32 % stride:
            raise RecipeError(f"[proposer] stride: {stride} does not divide 32; 4 does")
        self.root, self.stride = Path(root), stride
        if not self.root.exists():
            raise RecipeError(
                f"[proposer] root: {root}: no such folder or file; name a folder with NAME.json "
                "for each image, or a file of JSON lines such as instances.jsonl"
            )
        self._places = _places(self.root) if self.root.is_file() else None

    def propose(self, framed: FramedImage) -> Proposals:
        """The masks on file for one image, with their scores.

        Args:
            framed: with the image's name.

        Raises:
            InputError: the image has no name, there is nothing on file for it, or what there is
                cannot be read or is of another size.
        """
        if framed.name is None:
            raise InputError(
                f"{self.root}: masks on file are looked up by the image's name, and this image has "
                "none"
            )
        found = [
            _mask(record, framed.frame.original, where)
            for record, where in self._records(framed.name)
        ]
        size = framed.frame.original
        masks = torch.stack([mask for mask, _ in found]) if found else torch.zeros(0, *size) > 0
        scores = torch.tensor([score for _, score in found], dtype=torch.float32)
        proposals = given_proposals(masks, scores, framed.frame, stride=self.stride)
        device = framed.pixels.device
        return Proposals(proposals.mask_logits.to(device), framed.frame, scores.to(device))

    def _records(self, name: str) -> Iterator[tuple[Any, str]]:
        """The image's records, each with what to call it in errors."""
        if self._places is not None:
            place = self._places.get(Path(name).stem)
            yield from () if place is None else _at(self.root, place)
            return
        path = self.root / f"{Path(name).stem}.json"
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file; write [] there if {name} has no masks"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(records, list):
            raise InputError(f"{path}: is no list of records")
        yield from ((record, f"{path}: record {i}") for i, record in enumerate(records))


class _Place(NamedTuple):
    """Where an image's lines begin, as (line number, byte offset)."""

    file_name: str
    lines: list[tuple[int, int]]


def _places(path: Path) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _record(line, f"{path}: line {number}")
            name = record.get("file_name") if isinstance(record, dict) else None
            if not isinstance(name, str):
                raise InputError(f"{path}: line {number}: no record with a 'file_name'")
            place = places.setdefault(Path(name).stem, _Place(name, []))
            if place.file_name != name:
                raise InputError(
                    f"{path}: line {number}: {name} and {place.file_name} cannot be told apart by "
                    "name; give each image a name of its own"
                )
            place.lines.append((number, offset))
            offset += len(line)
    return places


def _at(path: Path, place: _Place) -> Iterator[tuple[Any, str]]:
    with path.open("rb") as file:
        for number, offset in place.lines:
            file.seek(offset)
            where = f"{path}: line {number}"
            yield _record(file.readline(), where), where


def _record(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: cannot be read as JSON: {error}") from error


def _mask(record: Any, size: tuple[int, int], where: str) -> tuple[torch.Tensor, float]:
    segmentation = record.get("segmentation") if isinstance(record, dict) else None
    if not isinstance(segmentation, dict):
        raise InputError(f"{where}: no COCO run lengths in 'segmentation'")
    score = record.get("score", record.get("predicted_iou", 1.0))
    if not isinstance(score, int | float) or isinstance(score, bool) or not score >= 0:
        raise InputError(f"{where}: score {score!r} is no number of 0 or more")
    try:
        return run_length_mask(segmentation, size), min(float(score), 1.0)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
