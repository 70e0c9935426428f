"""One panoptic map from those of windows."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from ovseg_cli.segmenter.windows import Window
from ovseg_cli.structures import Segment


class JoinedPanoptic:
    """Takes windows in the order of `windows`; what is the same segment gets the same number."""

    def __init__(self, size: tuple[int, int]) -> None:
        """An empty map.

        Args:
            size: (height, width) of the image in pixels.
        """
        self._map = torch.zeros(size, dtype=torch.int32)
        self._segments: list[Segment] = []  # the one of number n at n - 1
        self._same_as: list[int] = [0]  # a lower number, or the number itself
        self._stuff: dict[int, int] = {}

    def add(
        self, window: Window, panoptic: Int[Tensor, "h w"], segments: Sequence[Segment]
    ) -> None:
        """Takes in a window's map.

        Args:
            window: where it lies.
            panoptic: (h, w) segment ids.
            segments: what they stand for.
        """
        numbers = torch.zeros(max((s.id for s in segments), default=0) + 1, dtype=torch.int32)
        for segment in segments:
            numbers[segment.id] = self._number(segment)
        found = numbers[panoptic.long()]
        for strip in window.strips:
            self._join(self._map[strip], found[window.inside(strip)])
        self._map[window.own] = found[window.inside(window.own)]

    def result(self) -> tuple[Int[Tensor, "H W"], tuple[Segment, ...]]:
        """Segment ids (H, W) in the order in which segments were first found, and the segments."""
        first = [self._first(number) for number in range(len(self._same_as))]
        joined = torch.tensor(first, dtype=torch.int32)[self._map.long()]
        areas = joined.flatten().bincount(minlength=len(first)).tolist()
        scores: dict[int, float] = {}
        for number, segment in zip(first[1:], self._segments, strict=True):
            scores[number] = max(segment.score, scores.get(number, 0.0))
        kept = [number for number in scores if areas[number]]
        ids = torch.zeros(len(first), dtype=torch.int32)
        ids[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int32)
        return ids[joined.long()], tuple(
            replace(self._segments[number - 1], id=row, score=scores[number], area=areas[number])
            for row, number in enumerate(kept, start=1)
        )

    def _number(self, segment: Segment) -> int:
        """A new one, but for stuff of a class that is there already."""
        if not segment.is_thing and segment.label in self._stuff:
            number = self._stuff[segment.label]
            known = self._segments[number - 1]
            self._segments[number - 1] = replace(known, score=max(known.score, segment.score))
            return number
        self._segments.append(segment)
        number = len(self._segments)
        self._same_as.append(number)
        if not segment.is_thing:
            self._stuff[segment.label] = number
        return number

    def _join(self, before: Tensor, found: Tensor) -> None:
        """Things of a class that overlap by more than half of their union are one.

        What was joined already counts as one, so that a thing is found again of which two windows
        have parts.
        """
        count = len(self._same_as)
        first = torch.tensor([self._first(number) for number in range(count)])
        before, found = first[before.long()], first[found.long()]
        pairs, both = (before * count + found).unique(return_counts=True)
        sizes = [part.flatten().bincount(minlength=count).tolist() for part in (before, found)]
        for pair, shared in zip(pairs.tolist(), both.tolist(), strict=True):
            one, other = divmod(pair, count)
            if one and other and 2 * shared > sizes[0][one] + sizes[1][other] - shared:
                self._unite(one, other)

    def _unite(self, one: int, other: int) -> None:
        if self._segments[one - 1].label == self._segments[other - 1].label:
            low, high = sorted((self._first(one), self._first(other)))
            self._same_as[high] = low

    def _first(self, number: int) -> int:
        """The lowest number of the same segment."""
        while self._same_as[number] != number:
            number = self._same_as[number]
        return number
