"""The best and the worst of a stream, in constant memory."""

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Extremes(Generic[T]):
    """Keeps what had the highest and the lowest scores; of equal ones what came first."""

    def __init__(self, most: int) -> None:
        """Starts empty.

        Args:
            most: how many are kept at each end.
        """
        self._most = most
        self._count = 0
        self._best: list[tuple[float, int, T]] = []
        self._worst: list[tuple[float, int, T]] = []

    def add(self, score: float, make: Callable[[], T]) -> None:
        """Keeps something if it is among the extremes so far.

        Args:
            score: higher is better.
            make: gives what is kept; called only if it is.
        """
        self._count += 1
        places = ((self._best, (score, -self._count)), (self._worst, (-score, -self._count)))
        wanted = [
            (heap, key) for heap, key in places if len(heap) < self._most or key > heap[0][:2]
        ]
        if not wanted:
            return
        made = make()
        for heap, key in wanted:
            push = heapq.heappush if len(heap) < self._most else heapq.heapreplace
            push(heap, (*key, made))

    def best(self) -> list[tuple[float, T]]:
        """(score, what was kept), best first; at most half of all."""
        return [(score, made) for score, _, made in self._best_half()]

    def worst(self) -> list[tuple[float, T]]:
        """(score, what was kept), worst first; none of the best, and at most half of all."""
        best = {place for _, place, _ in self._best_half()}
        ordered = sorted(self._worst, key=lambda entry: entry[:2], reverse=True)
        rest = [(-score, made) for score, place, made in ordered if place not in best]
        return rest[: self._count - self._count // 2]

    def _best_half(self) -> list[tuple[float, int, T]]:
        ordered = sorted(self._best, key=lambda entry: entry[:2], reverse=True)
        return ordered[: self._count // 2]
