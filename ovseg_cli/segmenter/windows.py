"""Where the windows of a large image lie.

Neighbouring windows share a strip, in which both have looked at the same pixels. A map is cut in
the middle of the strip, as far from either border as can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SHARED = 4  # neighbours share at least this part of a window's side

Region = tuple[slice, slice]


@dataclass(frozen=True)
class Span:
    """A window along one axis, in pixels.

    Attributes:
        start: its first pixel.
        stop: the one after its last.
        cut: the first one that is its own and not the window's before it.
        shared: the end of the window before it; `start` where it is the first.
    """

    start: int
    stop: int
    cut: int
    shared: int


@dataclass(frozen=True)
class Window:
    """A rectangle of the image by its rows and columns."""

    rows: Span
    columns: Span

    @property
    def region(self) -> Region:
        """All of it, in the image."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def own(self) -> Region:
        """What is not an earlier window's, in the image; later windows may take from it."""
        return slice(self.rows.cut, self.rows.stop), slice(self.columns.cut, self.columns.stop)

    @property
    def strips(self) -> tuple[Region, ...]:
        """What it shares with the windows above and to the left, in the image."""
        columns = slice(self.columns.start, self.columns.stop)
        above = slice(self.rows.start, self.rows.shared), columns
        left = slice(self.rows.cut, self.rows.stop), slice(self.columns.start, self.columns.shared)
        return tuple(part for part in (above, left) if all(s.start < s.stop for s in part))

    def inside(self, region: Region) -> Region:
        """A region of the image, as seen from the window's corner."""
        rows, columns = region
        top, left = self.rows.start, self.columns.start
        return (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )


def windows(size: tuple[int, int], side: int) -> Iterator[Window]:
    """The windows of an image, row by row.

    Args:
        size: (height, width) in pixels.
        side: of a window, in pixels.
    """
    for rows in spans(size[0], side):
        for columns in spans(size[1], side):
            yield Window(rows, columns)


def spans(length: int, side: int) -> Iterator[Span]:
    """The fewest windows that share enough, evenly spread along an axis.

    Args:
        length: of the axis, in pixels.
        side: of a window, in pixels; a shorter axis has one window of its own length.
    """
    side = min(side, length)
    step = side - side // SHARED
    count = 1 + -(-(length - side) // step)
    stop = 0
    for place in range(count):
        start = place * (length - side) // max(1, count - 1)
        shared = stop if place else start
        stop = start + side
        yield Span(start, stop, (start + shared + 1) // 2, shared)
