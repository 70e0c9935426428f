"""Progress bars on stderr: lively on a terminal, a line every half minute in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


def progress(
    items: Iterable[Any] | None = None,
    *,
    title: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    shown: bool = True,
) -> "tqdm[Any]":
    """A bar with rate and time left.

    Args:
        items: what is gone through, or None if `update` is called by hand.
        title: what is going on.
        unit: of what is counted.
        total: how many there are, where `items` cannot tell.
        done: how many were done before.
        shown: False for no bar.
    """
    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(
        items,
        desc=title,
        unit=unit,
        total=total,
        initial=done,
        disable=not shown,
        mininterval=interval,
        maxinterval=max(10.0, interval),
    )
