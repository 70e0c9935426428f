"""Images resized and padded for the networks."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import Frame, FramedImage


@dataclass(frozen=True)
class FramingOptions:
    """The size at which a recipe's networks see images; the defaults are published for COCO.

    Attributes:
        short_side: pixels of the shorter side, None to keep the size.
        max_side: most pixels of the longer side, None for no maximum.
        size_divisor: both sides are padded, at the bottom and right, to a multiple of it.
        align_corners: whether mask logits are upsampled with corners on corners (MAFT as released,
            half a cell away from where its masks were trained).
    """

    short_side: PositiveInt | None = 800
    max_side: PositiveInt | None = 1333
    size_divisor: PositiveInt = 32
    align_corners: bool = False


def resized_size(
    size: tuple[int, int], *, short_side: int | None, max_side: int | None
) -> tuple[int, int]:
    """The size with the short side as asked, unless the long side would exceed its maximum.

    Args:
        size: (height, width) in pixels.
        short_side: pixels, None for the size as it is.
        max_side: pixels, None for no maximum.
    """
    scale = 1.0 if short_side is None else short_side / min(size)
    if max_side is not None and max(size) * scale > max_side:
        scale = max_side / max(size)
    height, width = (max(1, math.floor(side * scale + 0.5)) for side in size)
    return height, width


def frame_image(
    image: UInt8[Tensor, "3 H W"],
    *,
    short_side: int | None,
    max_side: int | None,
    size_divisor: int = 32,
    align_corners: bool = False,
) -> FramedImage:
    """Resizes by Pillow's bilinear filter, as published, and pads with zeros.

    Args:
        image: (3, H, W) RGB.
        short_side: pixels of the shorter side, None to keep the size.
        max_side: most pixels of the longer side, None for no maximum.
        size_divisor: both sides are padded, at the bottom and right, to a multiple of it.
        align_corners: how mask logits are to lie in the padded image, see `Frame`.
    """
    original = (image.shape[1], image.shape[2])
    resized = resized_size(original, short_side=short_side, max_side=max_side)
    pixels = image if resized == original else _resized(image, resized)
    padded = tuple(math.ceil(side / size_divisor) * size_divisor for side in resized)
    bottom, right = padded[0] - resized[0], padded[1] - resized[1]
    return FramedImage(
        F.pad(pixels.float(), (0, right, 0, bottom)),
        Frame((padded[0], padded[1]), resized, original, align_corners),
    )


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    resized = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(image.device)
