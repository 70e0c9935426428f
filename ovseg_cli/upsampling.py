"""Mask logits at the original image's size, all at once or a tile after the other.

Bilinear to the padded size, cropped, bilinear to the original size (Mask2Former, section 4): all of
it is linear and separable, so a tile is a small matrix of rows times a window of the mask logits
times a small matrix of columns. Masks are upsampled here and nowhere else. MAFT, as released, puts
the corners of the mask logits on those of the padded image: the frame says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import Frame

CPU_TILE = 1 << 20  # values of a tile, all masks together: 4 MB in fp32 stay near a core
GPU_TILE = 1 << 24  # larger, since starting an operation costs more than its memory
SMALLEST_SIDE = 32

Region = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """A rectangle of the original image and the mask logits in it.

    Attributes:
        region: its rows and columns.
        logits: (N, r, c).
    """

    region: Region
    logits: Float[Tensor, "N r c"]


@dataclass(frozen=True)
class _Span:
    """Pixels `outer` of an axis, the mask cells `inner` that they depend on, the weights."""

    outer: slice
    inner: slice
    weights: Tensor  # (inner, outer)


def tiles(mask_logits: Float[Tensor, "N h w"], frame: Frame) -> Iterator[Tile]:
    """The original image's tiles in reading order; their memory does not grow with the image.

    Args:
        mask_logits: (N, h, w) covering the padded frame; no tiles if N is 0.
        frame: how they lie in the image.
    """
    if not len(mask_logits):
        return
    rows, columns = (_weights(mask_logits, frame, axis) for axis in (0, 1))
    side = _side(mask_logits)
    across = [_span(columns, outer) for outer in _parts(columns, side)]
    for row in (_span(rows, outer) for outer in _parts(rows, side)):
        for column in across:
            window = mask_logits[:, row.inner, column.inner]
            yield Tile((row.outer, column.outer), _weighted(window, row, column))


def probability_tiles(
    mask_logits: Float[Tensor, "N h w"], frame: Frame
) -> Iterator[tuple[Region, Float[Tensor, "N r c"]]]:
    """Mask probabilities of the resized image, resized in their turn: the original image's tiles.

    Args:
        mask_logits: (N, h, w) covering the padded frame; no tiles if N is 0.
        frame: how they lie in the image.
    """
    if not len(mask_logits):
        return
    resized = replace(frame, original=frame.resized)
    first = [_weights(mask_logits, resized, axis) for axis in (0, 1)]
    rows, columns = (
        _resized(torch.eye(before)[None], after)[0].to(mask_logits)
        for before, after in zip(frame.resized, frame.original, strict=True)
    )
    side = _side(mask_logits)
    across = [_span(columns, outer) for outer in _parts(columns, side)]
    for row in (_span(rows, outer) for outer in _parts(rows, side)):
        for column in across:
            below, right = _span(first[0], row.inner), _span(first[1], column.inner)
            window = _weighted(mask_logits[:, below.inner, right.inner], below, right)
            yield (row.outer, column.outer), _weighted(window.sigmoid(), row, column)


def upsample(mask_logits: Float[Tensor, "N h w"], frame: Frame) -> Float[Tensor, "N H W"]:
    """Mask logits at the original image's size, all of them in memory.

    Args:
        mask_logits: (N, h, w) covering the padded frame.
        frame: how they lie in the image.
    """
    result = mask_logits.new_empty((len(mask_logits), *frame.original))
    for tile in tiles(mask_logits, frame):
        result[:, *tile.region] = tile.logits
    return result


def _side(mask_logits: Tensor) -> int:
    """Of a tile, in pixels."""
    values = CPU_TILE if mask_logits.device.type == "cpu" else GPU_TILE
    return max(SMALLEST_SIDE, isqrt(values // len(mask_logits)))


def _parts(weights: Tensor, side: int) -> Iterator[slice]:
    size = weights.shape[1]
    return (slice(start, min(size, start + side)) for start in range(0, size, side))


def _span(weights: Tensor, outer: slice) -> _Span:
    """Some pixels of an axis, from the weight of every cell in every pixel."""
    used = weights[:, outer].any(1).nonzero()[:, 0]
    inner = slice(int(used[0]), int(used[-1]) + 1)
    return _Span(outer, inner, weights[inner, outer].contiguous())


def _weighted(window: Tensor, row: _Span, column: _Span) -> Tensor:
    wide = (window.flatten(0, 1) @ column.weights).unflatten(0, window.shape[:2])
    return torch.bmm(row.weights.T.expand(len(window), -1, -1), wide)


def _weights(mask_logits: Tensor, frame: Frame, axis: int) -> Tensor:
    """(cells, original): the weight of every mask cell in every pixel along an axis."""
    padded, resized, original = frame.padded[axis], frame.resized[axis], frame.original[axis]
    cells = torch.eye(mask_logits.shape[1 + axis])[None]
    at_padded = _resized(cells, padded, align_corners=frame.align_corners)
    return _resized(at_padded[:, :, :resized], original)[0].to(mask_logits)


def _resized(signals: Tensor, size: int, *, align_corners: bool = False) -> Tensor:
    return F.interpolate(signals, size, mode="linear", align_corners=align_corners)
