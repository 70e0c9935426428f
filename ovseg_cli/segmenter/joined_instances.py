"""One list of instances from those of windows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.segmenter.windows import Region, Window
from ovseg_cli.structures import Instances

_Box = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass
class _Piece:
    """An instance as far as windows have seen it; its mask is that of its box."""

    label: int
    score: float
    box: _Box
    mask: Tensor
    seen_in: list[Region]

    def within(self, box: _Box) -> Bool[Tensor, "h w"]:
        """The mask in a box of the image."""
        top, left, bottom, right = _common(box, self.box)
        part = torch.zeros(box[2] - box[0], box[3] - box[1], dtype=torch.bool)
        if top < bottom and left < right:
            here = _at((top, left, bottom, right), box[:2])
            part[here] = self.mask[_at((top, left, bottom, right), self.box[:2])]
        return part


class JoinedInstances:
    """Takes windows in the order of `windows`; an instance of both sides of a strip is one."""

    def __init__(self, size: tuple[int, int]) -> None:
        """No instances.

        Args:
            size: (height, width) of the image in pixels.
        """
        self._size = size
        self._pieces: list[_Piece] = []

    def add(self, window: Window, instances: Instances) -> None:
        """Takes in a window's instances.

        Args:
            window: where it lies.
            instances: masks of the window's size.
        """
        before, taken = list(self._pieces), set[int]()
        for piece in _pieces(window, instances):
            same = self._same(piece, before, taken)
            taken.update(same)
            if same:
                first = before[same[0]]
                for other in [piece, *(before[place] for place in same[1:])]:
                    _join(first, other)
                gone = {id(before[place]) for place in same[1:]}
                self._pieces = [kept for kept in self._pieces if id(kept) not in gone]
            else:
                self._pieces.append(piece)

    def result(self, top_k: int) -> Instances:
        """The best instances, whole.

        Args:
            top_k: how many at most.
        """
        best = sorted(self._pieces, key=lambda piece: -piece.score)[:top_k]
        masks = torch.zeros(len(best), *self._size, dtype=torch.bool)
        for mask, piece in zip(masks, best, strict=True):
            mask[_at(piece.box, (0, 0))] = piece.mask
        labels = torch.tensor([piece.label for piece in best], dtype=torch.int64)
        return Instances(masks, labels, torch.tensor([piece.score for piece in best]))

    def _same(self, piece: _Piece, before: list[_Piece], taken: set[int]) -> list[int]:
        """The places of earlier pieces of the same instance, at most one of any window."""
        overlaps = [
            (_overlap(piece, other), place)
            for place, other in enumerate(before)
            if place not in taken and other.label == piece.label and _meet(piece.box, other.box)
        ]
        found: list[int] = []
        regions: list[Region] = []
        for overlap, place in sorted(overlaps, key=lambda pair: -pair[0]):
            new = before[place].seen_in
            if overlap > 0.5 and not any(region in regions for region in new):
                found.append(place)
                regions.extend(new)
        return found


def _pieces(window: Window, instances: Instances) -> Iterator[_Piece]:
    rows, columns = window.rows, window.columns
    scored = zip(instances.masks, instances.labels.tolist(), instances.scores.tolist(), strict=True)
    for mask, label, score in scored:
        down, across = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if not len(down):
            continue
        top, bottom = rows.start + int(down[0]), rows.start + int(down[-1]) + 1
        left, right = columns.start + int(across[0]), columns.start + int(across[-1]) + 1
        box = (top, left, bottom, right)
        part = mask[_at(box, (rows.start, columns.start))].clone()
        yield _Piece(label, score, box, part, [window.region])


def _overlap(piece: _Piece, other: _Piece) -> float:
    """Intersection over union of two instances where windows of both have looked."""
    box = _hull(piece.box, other.box)
    seen = torch.zeros(box[2] - box[0], box[3] - box[1], dtype=torch.bool)
    (here,) = piece.seen_in
    for region in other.seen_in:
        top, left, bottom, right = _common(_common(_box(here), _box(region)), box)
        if top < bottom and left < right:
            seen[_at((top, left, bottom, right), box[:2])] = True
    one, two = piece.within(box) & seen, other.within(box) & seen
    union = int((one | two).sum())
    return int((one & two).sum()) / union if union else 0.0


def _join(first: _Piece, other: _Piece) -> None:
    """Makes the first piece both of them."""
    box = _hull(first.box, other.box)
    first.mask = first.within(box) | other.within(box)
    first.box, first.score = box, max(first.score, other.score)
    first.seen_in = [*first.seen_in, *other.seen_in]


def _meet(one: _Box, other: _Box) -> bool:
    top, left, bottom, right = _common(one, other)
    return top < bottom and left < right


def _common(one: _Box, other: _Box) -> _Box:
    top, left, bottom, right = zip(one, other, strict=True)
    return max(top), max(left), min(bottom), min(right)


def _hull(one: _Box, other: _Box) -> _Box:
    top, left, bottom, right = zip(one, other, strict=True)
    return min(top), min(left), max(bottom), max(right)


def _box(region: Region) -> _Box:
    rows, columns = region
    return rows.start, columns.start, rows.stop, columns.stop


def _at(box: _Box, corner: tuple[int, int]) -> Region:
    """A box as seen from a corner."""
    top, left = corner
    return slice(box[0] - top, box[2] - top), slice(box[1] - left, box[3] - left)
