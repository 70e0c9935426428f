"""Mask logits at the original image's size, all at once or a tile after the other.

Bilinear to the padded size, cropped, bilinear to the original size (Mask2Former, section 4): all of
it is linear and separable, so a tile is a small matrix of rows times a window of the mask logits
times a small matrix of columns. Masks are upsampled here and nowhere else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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
    count = len(mask_logits)
    if not count:
        return
    values = CPU_TILE if mask_logits.device.type == "cpu" else GPU_TILE
    side = max(SMALLEST_SIDE, isqrt(values // count))
    across = list(_spans(mask_logits, 1, frame, side))
    for row in _spans(mask_logits, 0, frame, side):
        rows = row.weights.T.expand(count, -1, -1)
        for column in across:
            window = mask_logits[:, row.inner, column.inner]
            wide = (window.flatten(0, 1) @ column.weights).unflatten(0, window.shape[:2])
            yield Tile((row.outer, column.outer), torch.bmm(rows, wide))


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


def _spans(mask_logits: Tensor, axis: int, frame: Frame, side: int) -> Iterator[_Span]:
    cells, size = mask_logits.shape[1 + axis], frame.original[axis]
    weights = _resizing(cells, frame.padded[axis], frame.resized[axis], size)
    for start in range(0, size, side):
        outer = slice(start, min(size, start + side))
        used = weights[:, outer].any(1).nonzero()[:, 0]
        inner = slice(int(used[0]), int(used[-1]) + 1)
        yield _Span(outer, inner, weights[inner, outer].contiguous().to(mask_logits))


def _resizing(cells: int, padded: int, resized: int, original: int) -> Tensor:
    """(cells, original): the weight of every mask cell in every pixel along an axis."""
    weights = _resized(torch.eye(cells)[None], padded)[:, :, :resized]
    return _resized(weights, original)[0]


def _resized(signals: Tensor, size: int) -> Tensor:
    return F.interpolate(signals, size, mode="linear", align_corners=False)
