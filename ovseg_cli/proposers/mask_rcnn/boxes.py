"""Boxes of masks, which annotated box another box stands for, and which boxes are learned from."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# isort: off
from ovseg_cli import torchvision_ops  # noqa: F401  first: it makes torchvision importable

# isort: on
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

SMALLEST = 1e-2  # pixels; a box with a shorter side is dropped


class Matches(NamedTuple):
    """What boxes stand for.

    Attributes:
        labels: 1 for an object, 0 for background, -1 for neither.
        indices: the annotated box of each; 0 where there is none.
    """

    labels: Int[Tensor, " A"]
    indices: Int[Tensor, " A"]


def boxes_of(masks: Bool[Tensor, "M H W"]) -> Float[Tensor, "M 4"]:
    """The smallest box around each mask, right and bottom edges outside its last pixels.

    Args:
        masks: none of them empty.
    """
    columns, rows = masks.any(-2).int(), masks.any(-1).int()  # argmax finds the first maximum
    left, top = columns.argmax(-1), rows.argmax(-1)
    right = columns.shape[-1] - columns.flip(-1).argmax(-1)
    bottom = rows.shape[-1] - rows.flip(-1).argmax(-1)
    return torch.stack([left, top, right, bottom], -1).float()


def match(
    boxes: Float[Tensor, "A 4"], annotated: Float[Tensor, "M 4"], matcher: Matcher
) -> Matches:
    """The annotated box that each box overlaps most, and whether it overlaps enough.

    Args:
        boxes: such as anchors.
        annotated: boxes of annotated masks, possibly none.
        matcher: what is enough.
    """
    if not len(annotated):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return Matches(nothing, nothing)
    indices = matcher(box_iou(annotated, boxes))
    background = indices == matcher.BELOW_LOW_THRESHOLD
    labels = torch.where(background, 0, torch.where(indices >= 0, 1, -1))
    return Matches(labels, indices.clamp(min=0))


def sample(
    labels: Int[Tensor, " A"], count: int, share: float, generator: torch.Generator
) -> Int[Tensor, " S"]:
    """Indices of random boxes to learn from, objects first.

    Args:
        labels: see `Matches`.
        count: boxes altogether; fewer where there are not as many.
        share: at most this share of them are objects.
        generator: a CPU generator, so that every device and number of processes sees the same.
    """
    objects = _some((labels == 1).nonzero()[:, 0], int(count * share), generator)
    others = _some((labels == 0).nonzero()[:, 0], count - len(objects), generator)
    return torch.cat([objects, others])


def _some(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=generator)[:count]
    return indices[order.to(indices.device)]


def moved(
    boxes: Float[Tensor, "A 4"], deltas: Float[Tensor, "A 4"], coder: BoxCoder
) -> Float[Tensor, "A 4"]:
    """Boxes moved and scaled by predicted deltas, in float32.

    Args:
        boxes: where they were.
        deltas: of the centre and of the logarithm of the size.
        coder: the deltas' weights.
    """
    return coder.decode_single(deltas.float(), boxes)


def inside(boxes: Float[Tensor, "A 4"], size: tuple[int, int]) -> Float[Tensor, "A 4"]:
    """The part of each box within an image.

    Args:
        boxes: anywhere.
        size: the image's (height, width).
    """
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return boxes.clamp(min=0).minimum(limit)


def is_large_enough(boxes: Float[Tensor, "A 4"]) -> Bool[Tensor, " A"]:
    """Whether neither side of a box is next to nothing.

    Args:
        boxes: clipped to the image.
    """
    return (boxes[:, 2:] - boxes[:, :2] >= SMALLEST).all(-1)


def suppressed(
    boxes: Float[Tensor, "A 4"], scores: Float[Tensor, " A"], iou_threshold: float
) -> Int[Tensor, " K"]:
    """Indices of the boxes that non-maximum suppression keeps, best first.

    Args:
        boxes: of one image.
        scores: to rank them by.
        iou_threshold: a box with a greater IoU than this with a better one is dropped.
    """
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return kept
