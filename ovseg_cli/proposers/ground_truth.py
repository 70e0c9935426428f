"""Annotated masks as proposals: shows what the classification alone is worth."""

import torch
import torch.nn.functional as F

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
    if tuple(sample.masks.shape[-2:]) != frame.original:
        raise ValueError(f"frame of a {frame.original} image, masks of {sample.masks.shape[-2:]}")
    if frame.padded[0] % stride or frame.padded[1] % stride:
        raise ValueError(f"stride {stride} does not divide the padded size {frame.padded}")
    masks = sample.masks[~sample.is_crowd].float()
    logits = torch.full((len(masks), *frame.padded), -_INSIDE)
    if len(masks):
        height, width = frame.resized
        resized = F.interpolate(masks.unsqueeze(0), size=frame.resized, mode="nearest-exact")[0]
        logits[:, :height, :width] += 2 * _INSIDE * resized
        logits = F.avg_pool2d(logits, stride)
    else:
        logits = logits[:, ::stride, ::stride]
    return Proposals(logits, frame, torch.ones(len(masks)))
