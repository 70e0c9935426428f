"""What each proposal should be called, and the loss of calling it something else.

MasQCLIP (Xu et al., ICCV 2023), section 3.3. The paper says IoU; the released code measures Dice
with +1 smoothing (0.6 of it is an IoU of 0.43), so that is the default and "iou" is an option.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.training.distributed import global_sum, world_size

IGNORED = -100


class AssignedLabels(NamedTuple):
    """Labels of proposals.

    Attributes:
        labels: (N,) class indices, the background's where no annotated mask is near.
        gt: (N,) the annotated mask of each proposal, -1 for none.
    """

    labels: Int[Tensor, " N"]
    gt: Int[Tensor, " N"]


def pairwise_overlap(
    masks: Bool[Tensor, "N H W"],
    others: Bool[Tensor, "M H W"],
    kind: Literal["dice", "iou"] = "dice",
) -> Float[Tensor, "N M"]:
    """The overlap of every mask with every other, 0 to 1, with +1 smoothing.

    Args:
        masks: N masks.
        others: M masks of the same size.
        kind: "dice" for (2 |a b| + 1) / (|a| + |b| + 1), "iou" for (|a b| + 1) / (|a or b| + 1).
    """
    first, second = masks.flatten(1).float(), others.flatten(1).float()
    intersection = first @ second.T
    total = first.sum(1)[:, None] + second.sum(1)[None]
    if kind == "dice":
        return (2 * intersection + 1) / (total + 1)
    return (intersection + 1) / (total - intersection + 1)


def assign_labels(
    masks: Bool[Tensor, "N H W"],
    gt_masks: Bool[Tensor, "M H W"],
    gt_labels: Int[Tensor, " M"],
    *,
    background: int,
    overlap: Literal["dice", "iou"] = "dice",
    threshold: float = 0.6,
) -> AssignedLabels:
    """Gives each proposal the label of the annotated mask it overlaps most, if by enough.

    Many proposals may take one annotated mask; nothing is matched one to one.

    Args:
        masks: N proposals.
        gt_masks: M annotated masks, possibly none, of the same size.
        gt_labels: their classes.
        background: the label of a proposal that is near none.
        overlap: how nearness is measured.
        threshold: an overlap above it counts.
    """
    if len(gt_masks) == 0:
        nothing = torch.full((len(masks),), -1, device=masks.device)
        return AssignedLabels(torch.full_like(nothing, background), nothing)
    best, gt = pairwise_overlap(masks, gt_masks, overlap).max(dim=1)
    near = 1 - best < 1 - threshold
    gt_labels = gt_labels.to(torch.int64)
    return AssignedLabels(torch.where(near, gt_labels[gt], background), torch.where(near, gt, -1))


def weighted_cross_entropy(
    logits: Float[Tensor, "*batch K"],
    labels: Int[Tensor, "*batch"],
    *,
    background_weight: float = 0.1,
    per_process_mean: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy as a weighted mean over the proposals of all images and all processes.

    Args:
        logits: the last class is the background.
        labels: class indices; -100 counts for nothing (padding).
        background_weight: of proposals labelled background, against 1 for the others.
        per_process_mean: divide by this process's weights, as released, and not by everybody's.
    """
    flat, target = logits.flatten(0, -2).float(), labels.flatten()
    classes = flat.shape[-1]
    weights = torch.ones(classes, device=flat.device)
    weights[-1] = background_weight
    losses = F.cross_entropy(flat, target, weight=weights, ignore_index=IGNORED, reduction="sum")
    counted = target != IGNORED
    normaliser = weights[target.clamp(min=0)][counted].sum()
    if per_process_mean:
        return losses / normaliser.clamp(min=1e-6)
    return losses * world_size() / global_sum(normaliser).clamp(min=1e-6)
