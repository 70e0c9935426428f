"""Annotated masks as proposals: shows what the classification alone is worth."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..structures import Frame, Proposals, Sample

_INSIDE = 20.0  # a logit whose probability is 1 in float32


def ground_truth_proposals(sample: Sample, frame: Frame, *, stride: int = 1) -> Proposals:
    """The annotated segments of a sample with score 1, crowds left out.

    Args:
        sample: the annotated image.
        frame: how networks see the image.
        stride: pixels of the padded image that a mask logit covers, a divisor of its size.

    Raises:
        ValueError: the frame is of another image, or the stride does not divide the padded size.
    """
    masks = sample.masks[~sample.is_crowd]
    return given_proposals(masks, torch.ones(len(masks)), frame, stride=stride)


def given_proposals(
    masks: Bool[Tensor, "N H W"], scores: Float[Tensor, " N"], frame: Frame, *, stride: int = 1
) -> Proposals:
    """Masks of an image from wherever, as logits in its frame.

    Args:
        masks: (N, H, W) of the original image's size, True inside.
        scores: (N,) 0 to 1.
        frame: how networks see the image.
        stride: pixels of the padded image that a mask logit covers, a divisor of its size.

    Raises:
        ValueError: the frame is of another image, or the stride does not divide the padded size.
    """
    if tuple(masks.shape[-2:]) != frame.original:
        raise ValueError(f"frame of a {frame.original} image, masks of {masks.shape[-2:]}")
    if frame.padded[0] % stride or frame.padded[1] % stride:
        raise ValueError(f"stride {stride} does not divide the padded size {frame.padded}")
    size = (frame.padded[0] // stride, frame.padded[1] // stride)
    logits = torch.empty(len(masks), *size)
    for mask, cells in zip(masks, logits, strict=True):  # one by one: padded they are large
        cells.copy_(_logits(mask, frame, stride))
    return Proposals(logits, frame, scores)


def _logits(mask: Tensor, frame: Frame, stride: int) -> Tensor:
    height, width = frame.resized
    resized = F.interpolate(mask[None, None].float(), size=frame.resized, mode="nearest-exact")
    logits = torch.full((1, *frame.padded), -_INSIDE)
    logits[:, :height, :width] += 2 * _INSIDE * resized[0]
    return F.avg_pool2d(logits, stride)[0]
