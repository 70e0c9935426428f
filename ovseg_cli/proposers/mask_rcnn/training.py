"""The losses of Mask R-CNN's heads.

He et al., Mask R-CNN, ICCV 2017, section 3: the losses of classes, boxes and masks, and those of
the region proposal network (Ren et al., Faster R-CNN, equation 1), all of weight 1. Every loss is
a sum over samples divided by their number in all processes, so that the mean over processes is what
one process would have.

A quarter of the regions that are learned are objects, by an IoU of 0.5, as published. The smooth L1
loss turns at 1/9 as torchvision's, not at 1 (Fast R-CNN, equation 3).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

# isort: off
from ovseg_cli import torchvision_ops  # noqa: F401  first: it makes torchvision importable

# isort: on
from torchvision.models.detection._utils import BoxCoder, Matcher

from ovseg_cli.training.distributed import global_sum, world_size

from .boxes import boxes_of, match, sample
from .heads import BOX_BINS, MASK_BINS, mask_targets, pool
from .regions import Regions

SHARE = 0.25  # of objects among the regions that are learned


class AnnotatedMasks(NamedTuple):
    """What is learned from an image.

    Attributes:
        masks: True inside; an empty one counts for nothing.
        seed: of which anchors and regions are sampled.
    """

    masks: Bool[Tensor, "M H W"]
    seed: int


class Samples(NamedTuple):
    """The regions of an image that are learned.

    Attributes:
        boxes: where they are, objects first.
        labels: 1 for an object, 0 for background.
        indices: the annotated mask of each object.
    """

    boxes: Float[Tensor, "S 4"]
    labels: Float[Tensor, " S"]
    indices: Tensor


def sampled(
    regions: Regions,
    annotated: Float[Tensor, "M 4"],
    *,
    matcher: Matcher,
    count: int,
    generator: torch.Generator,
) -> Samples:
    """Random regions of an image and its annotated boxes themselves.

    Args:
        regions: proposed.
        annotated: boxes of the annotated masks.
        matcher: when a region stands for an object.
        count: of the regions to learn.
        generator: of the choice.
    """
    boxes = torch.cat([regions.boxes, annotated])
    labels, indices = match(boxes, annotated, matcher)
    chosen = sample(labels, count, SHARE, generator)
    labels = labels[chosen]
    return Samples(boxes[chosen], labels.float(), indices[chosen][labels == 1])


def head_losses(
    levels: Sequence[Tensor],
    samples: Sequence[Samples],
    masks: Sequence[Bool[Tensor, "_ H W"]],
    *,
    box_head: nn.Module,
    mask_head: nn.Module,
    coder: BoxCoder,
) -> dict[str, Tensor]:
    """The losses of both heads.

    Args:
        levels: the pyramid at strides 4, 8, 16 and 32.
        samples: of each image.
        masks: of each image, annotated.
        box_head: the `BoxHead`.
        mask_head: the `MaskHead`.
        coder: the weights of the box head's deltas.
    """
    logits, deltas = box_head(pool(levels, [part.boxes for part in samples], BOX_BINS))
    labels = torch.cat([part.labels for part in samples])
    objects = [part.boxes[part.labels == 1] for part in samples]
    wanted_boxes = [boxes_of(own)[part.indices] for own, part in zip(masks, samples, strict=True)]
    wanted = coder.encode_single(torch.cat(wanted_boxes), torch.cat(objects))
    mask_logits = mask_head(pool(levels, objects, MASK_BINS))
    targets = torch.cat(
        [
            mask_targets(own.float(), boxes, part.indices.float())
            for own, boxes, part in zip(masks, objects, samples, strict=True)
        ]
    )
    class_loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    box_loss = F.smooth_l1_loss(deltas[labels == 1], wanted, beta=1 / 9, reduction="sum")
    mask_loss = F.binary_cross_entropy_with_logits(mask_logits, targets, reduction="sum")
    return {
        "box_class": mean(class_loss, len(labels)),
        "box_reg": mean(box_loss, len(labels)),
        "mask": mean(mask_loss, targets.numel()),
    }


def mean(total: Tensor, count: int) -> Tensor:
    """A process's part of a mean over all processes' samples.

    Args:
        total: the sum over this process's samples.
        count: how many they are.
    """
    everywhere = global_sum(total.new_tensor(float(count))) / world_size()
    return total / everywhere.clamp(min=1)
