"""An image in whatever form Python programs have it, as (3, H, W) uint8 RGB."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ovseg_cli.image_sources import open_image, rgb_pixels

AnyImage = Tensor | np.ndarray | Image.Image | Path | str


def pixels_of(image: AnyImage) -> UInt8[Tensor, "3 H W"]:
    """The image's pixels.

    Args:
        image: a file's path; a PIL image, which is turned into RGB as a file is; an array
            (H, W, 3) or a tensor (3, H, W) of uint8 RGB.

    Raises:
        InputError: a file that cannot be read as an image.
        ValueError: an array or tensor of another shape or type.
    """
    if isinstance(image, str | Path):
        return open_image(Path(image))
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    if isinstance(image, np.ndarray):
        _check("array", image.shape, image.shape[-1:], str(image.dtype), "(H, W, 3)")
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
    kind = str(image.dtype).removeprefix("torch.")
    _check("tensor", tuple(image.shape), tuple(image.shape[:1]), kind, "(3, H, W)")
    return image


def name_of(image: AnyImage) -> str | None:
    """The path, where the image is one."""
    return str(image) if isinstance(image, str | Path) else None


def _check(
    what: str, shape: tuple[int, ...], channels: tuple[int, ...], kind: str, expected: str
) -> None:
    if len(shape) != 3 or channels != (3,) or 0 in shape or kind != "uint8":
        raise ValueError(
            f"an image {what} is {expected} of uint8 RGB, and this one is {shape} of {kind}"
        )
