"""Mask-aware loss: what a mask scores for a class should say how well it covers the class.

MAFT (Jiao et al., NeurIPS 2023), section 3.3; in detail as released: the IoU is that of mask
probabilities, and each class's IoUs are stretched to 0..1 over the image's proposals. Differs: the
mean is over the rows of all processes, and a class that all proposals cover alike, such as an only
proposal, is left out, since it ranks nothing (published, all of them would have to score 0).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.losses.classification import IGNORED, weighted_cross_entropy
from ovseg_cli.training.distributed import global_sum, world_size

Distance = Literal["smooth_l1", "l1", "l2", "kl"]


@dataclass(frozen=True)
class ClassOverlaps:
    """How an image's proposals cover the classes that are in it.

    Attributes:
        iou: of every class's mask with every proposal, 0 to 1.
        labels: the classes.
    """

    iou: Float[Tensor, "M N"]
    labels: Int[Tensor, " M"]

    def to(self, device: torch.device) -> "ClassOverlaps":
        """The same on another device."""
        return ClassOverlaps(self.iou.to(device), self.labels.to(device))


def soft_iou(
    masks: Bool[Tensor, "M H W"] | Float[Tensor, "M H W"], probabilities: Float[Tensor, "N H W"]
) -> Float[Tensor, "M N"]:
    """The IoU of every mask with every proposal's probabilities, as two areas and a product.

    Args:
        masks: 1 inside, 0 outside.
        probabilities: 0 to 1.
    """
    inside, likely = masks.flatten(1).float(), probabilities.flatten(1).float()
    intersection = inside @ likely.T
    union = inside.sum(1)[:, None] + likely.sum(1) - intersection
    return intersection / (union + 1e-7)


def stretched(iou: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """Each row from 0, its least, to 1, its greatest.

    Args:
        iou: at least one column.
    """
    least = iou.amin(1, keepdim=True)
    return (iou - least) / (iou.amax(1, keepdim=True) - least + 1e-8)


def mask_aware_loss(
    class_logits: Float[Tensor, "B N K"],
    overlaps: Sequence[ClassOverlaps],
    *,
    distance: Distance = "smooth_l1",
) -> Float[Tensor, ""]:
    """The mean distance between the masks' class probabilities and their stretched IoUs.

    Args:
        class_logits: of proposals; the softmax is over the classes.
        overlaps: of each image; logits of more proposals than it has are padding.
        distance: `smooth_l1` with beta 1 (published), `l1`, `l2` for the square, or `kl` for the
            divergence of the target's yes and no from the probability's; the paper does not say
            which divergence it took.
    """
    scores, targets = [class_logits.float().flatten()[:0]], [class_logits.float().flatten()[:0]]
    for logits, overlap in zip(class_logits.float(), overlaps, strict=True):
        ranking = _ranking(overlap)
        found = logits[: overlap.iou.shape[1]].softmax(-1)
        scores.append(found[:, ranking.labels].T.flatten())
        targets.append(stretched(ranking.iou).flatten() if len(ranking.labels) else targets[0])
    errors = DISTANCES[distance](torch.cat(scores), torch.cat(targets).detach())
    count = global_sum(errors.new_tensor(float(len(errors))))
    return errors.sum() * world_size() / count.clamp(min=1)


def overlap_cross_entropy(
    class_logits: Float[Tensor, "B N K"],
    overlaps: Sequence[ClassOverlaps],
    *,
    threshold: float = 0.5,
) -> Float[Tensor, ""]:
    """Cross-entropy of each proposal's best covered class: plain tuning, to compare with.

    Args:
        class_logits: of proposals.
        overlaps: of each image; logits of more proposals than it has are padding.
        threshold: a proposal of no greater IoU is not learned from.
    """
    labels = class_logits.new_full(class_logits.shape[:2], IGNORED, dtype=torch.long)
    for row, overlap in zip(labels, overlaps, strict=True):
        if overlap.iou.numel():
            best, which = overlap.iou.max(0)
            row[: len(best)] = torch.where(best > threshold, overlap.labels[which], IGNORED)
    return weighted_cross_entropy(class_logits, labels, background_weight=1.0)


def _ranking(overlap: ClassOverlaps) -> ClassOverlaps:
    """The rows that tell some proposals from others."""
    if not overlap.iou.numel():
        return ClassOverlaps(overlap.iou[:0], overlap.labels[:0])
    tells = overlap.iou.amax(1) > overlap.iou.amin(1)
    return ClassOverlaps(overlap.iou[tells], overlap.labels[tells])


def _smooth_l1(scores: Tensor, targets: Tensor) -> Tensor:
    return F.smooth_l1_loss(scores, targets, reduction="none", beta=1.0)


def _divergence(scores: Tensor, targets: Tensor) -> Tensor:
    least = F.binary_cross_entropy(targets, targets, reduction="none")
    return F.binary_cross_entropy(scores, targets, reduction="none") - least


DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": _smooth_l1,
    "l1": lambda scores, targets: (scores - targets).abs(),
    "l2": lambda scores, targets: (scores - targets).square(),
    "kl": _divergence,
}
