"""Which classes are taken for which, from counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST = 15


@dataclass(frozen=True)
class Confusion:
    """One class taken for another.

    Attributes:
        annotated: the class's name.
        named: the other's name, None where nothing was said.
        count: pixels or segments.
        share: of all of the annotated class's, 0 to 1.
    """

    annotated: str
    named: str | None
    count: int
    share: float


def most_confused(
    counts: Mapping[tuple[int, int], int], totals: Sequence[int], names: Sequence[str]
) -> list[Confusion]:
    """The pairs of different classes with the highest counts.

    Args:
        counts: by annotated and named class; a named class beyond the last one is none at all.
        totals: (K,) how often each class is annotated.
        names: (K,) the classes'.
    """
    wrong = [(pair, count) for pair, count in counts.items() if count and pair[0] != pair[1]]
    wrong.sort(key=lambda entry: (-entry[1], entry[0]))
    return [
        Confusion(
            annotated=names[truth],
            named=names[named] if named < len(names) else None,
            count=count,
            share=count / totals[truth],
        )
        for (truth, named), count in wrong[:MOST]
    ]


def most_confused_pixels(confusion: np.ndarray, names: Sequence[str]) -> list[Confusion]:
    """The pairs of different classes that share most pixels.

    Args:
        confusion: (K, K + 1) pixels by annotated and named class, the last column for none.
        names: (K,) the classes'.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    cells = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    rows, columns = np.unravel_index(cells, wrong.shape)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    counts = {pair: int(wrong[pair]) for pair in pairs}
    return most_confused(counts, confusion.sum(1).tolist(), names)
