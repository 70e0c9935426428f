"""Boxes cut out of one image, filled around their masks and resized, many at once.

OVSeg (Liang et al., CVPR 2023), as released: bicubic without antialiasing, the aspect ratio lost,
masks by the nearest pixel. A crop of any box is two products with small matrices of weights, the
same as `F.interpolate` gives of each box alone, whose border is the box's and not the image's.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CUBIC = -0.75  # PyTorch's bicubic kernel
TAPS = torch.tensor([-1, 0, 1, 2])


class Crops(NamedTuple):
    """Squares that show a mask each.

    Attributes:
        pixels: RGB, 0 to 255; bicubic weights overshoot a little.
        masks: True inside.
    """

    pixels: Float[Tensor, "N 3 R R"]
    masks: Bool[Tensor, "N R R"]


def cut(
    image: Float[Tensor, "3 H W"],
    masks: Bool[Tensor, "N H W"],
    boxes: Int[Tensor, "N 4"],
    *,
    side: int,
    around: Float[Tensor, "3 1 1"] | None,
) -> Crops:
    """What lies in each mask's box, as a square.

    Args:
        image: RGB, 0 to 255.
        masks: of its size.
        boxes: xyxy in pixels, right and bottom exclusive, inside the image, none of them empty.
        side: R, of the squares in pixels.
        around: the colour of what is outside a mask; None leaves the image's own.
    """
    left, top, right, bottom = boxes.to(image.device).unbind(1)
    across = bicubic_weights(left, right, side, image.shape[2])  # (N, R, W)
    down = bicubic_weights(top, bottom, side, image.shape[1])  # (N, R, H)
    shown = image.expand(len(masks), -1, -1, -1)
    if around is not None:
        shown = (shown - around) * masks[:, None]
    with torch.autocast(image.device.type, enabled=False):
        pixels = down[:, None] @ (shown @ across.transpose(1, 2)[:, None])
    rows, columns = nearest(top, bottom, side), nearest(left, right, side)
    every = torch.arange(len(masks), device=image.device)[:, None, None]
    inside = masks[every, rows[:, :, None], columns[:, None]]
    return Crops(pixels if around is None else pixels + around, inside)


def bicubic_weights(
    first: Int[Tensor, " N"], end: Int[Tensor, " N"], side: int, length: int
) -> Float[Tensor, "N R S"]:
    """The weight of each of S pixels of an axis in each of R pixels of a resized span of it.

    Args:
        first: of every span, in pixels.
        end: exclusive.
        side: R.
        length: S.
    """
    spans = (end - first).float()[:, None]  # (N, 1)
    centres = (torch.arange(side, device=first.device) + 0.5) * (spans / side) - 0.5  # (N, R)
    before = centres.floor()
    taps = TAPS.to(first.device)
    pixels = (before[..., None] + taps).clamp(min=0).minimum(spans[..., None] - 1)  # (N, R, 4)
    weights = _kernel((centres - before)[..., None] - taps)
    result = weights.new_zeros(len(first), side, length)
    return result.scatter_add(2, pixels.long() + first[:, None, None], weights)


def nearest(first: Int[Tensor, " N"], end: Int[Tensor, " N"], side: int) -> Int[Tensor, "N R"]:
    """The pixel of an axis that each of R pixels of a resized span of it is.

    Args:
        first: of every span, in pixels.
        end: exclusive.
        side: R.
    """
    spans = (end - first)[:, None]
    places = torch.arange(side, device=first.device) * (spans.float() / side)
    return first[:, None] + places.long().minimum(spans - 1)


def _kernel(offsets: Tensor) -> Tensor:
    """Keys' cubic convolution (1981) at distances up to 2."""
    x, a = offsets.abs(), CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, far)
