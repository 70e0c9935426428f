"""Augmentation of images together with their masks.

The two published ways: large-scale jittering (Ghiasi et al., Simple Copy-Paste, CVPR 2021, section
3.2, with Mask2Former's settings), and the flip and squash of MasQCLIP's panoptic recipe.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_cli.structures import Sample

PAD_VALUE = 128


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at another size: the image bilinearly with antialiasing, masks by nearest pixel.

    Args:
        sample: the annotated image.
        size: (height, width) in pixels.
    """
    if tuple(sample.image.shape[-2:]) == size:
        return sample
    image = F.interpolate(
        sample.image[None].float(), size=size, mode="bilinear", antialias=True
    ).round()
    masks = sample.masks.new_zeros(len(sample.masks), *size)
    if len(masks):
        masks = F.interpolate(sample.masks[None].float(), size=size, mode="nearest-exact")[0] > 0.5
    return replace(sample, image=image[0].clamp(0, 255).to(torch.uint8), masks=masks)


def flipped(sample: Sample) -> Sample:
    """The sample mirrored left to right.

    Args:
        sample: the annotated image.
    """
    return replace(sample, image=sample.image.flip(-1), masks=sample.masks.flip(-1))


def squashed(sample: Sample, size: int, generator: torch.Generator) -> Sample:
    """Mirrored or not, then brought to a square, whatever its shape.

    Args:
        sample: the annotated image.
        size: the square's side in pixels.
        generator: what decides.
    """
    if _uniform(generator) < 0.5:
        sample = flipped(sample)
    return without_empty_masks(resized(sample, (size, size)))


def jittered(
    sample: Sample,
    size: int,
    generator: torch.Generator,
    *,
    smallest: float = 0.1,
    largest: float = 2.0,
) -> Sample:
    """Mirrored or not, scaled at random, cropped and padded to a square.

    The image is first fitted into the square and then scaled; what is missing at the bottom and
    right is grey and belongs to no mask.

    Args:
        sample: the annotated image.
        size: the square's side in pixels.
        generator: what decides.
        smallest: least scale.
        largest: greatest scale.
    """
    if _uniform(generator) < 0.5:
        sample = flipped(sample)
    height, width = sample.image.shape[-2:]
    scale = smallest + (largest - smallest) * _uniform(generator)
    fit = scale * size / max(height, width)
    target = (max(1, math.floor(height * fit + 0.5)), max(1, math.floor(width * fit + 0.5)))
    sample = resized(sample, target)
    top, left = (int(_uniform(generator) * (max(side - size, 0) + 1)) for side in target)
    image = sample.image[:, top : top + size, left : left + size]
    masks = sample.masks[:, top : top + size, left : left + size]
    pad = (0, size - image.shape[-1], 0, size - image.shape[-2])
    return without_empty_masks(
        replace(sample, image=F.pad(image, pad, value=PAD_VALUE), masks=F.pad(masks, pad))
    )


def without_empty_masks(sample: Sample) -> Sample:
    """The sample without the masks that have no pixel.

    Args:
        sample: the annotated image.
    """
    kept: Tensor = sample.masks.flatten(1).any(1)
    if bool(kept.all()):
        return sample
    return replace(
        sample,
        masks=sample.masks[kept],
        labels=sample.labels[kept],
        is_crowd=sample.is_crowd[kept],
    )


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
