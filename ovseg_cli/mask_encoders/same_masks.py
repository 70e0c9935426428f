"""Masks that are nearly the same as an earlier one."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def stand_ins(masks: Bool[Tensor, "N h w"], least_iou: float) -> Int[Tensor, " N"]:
    """For every mask the index of the one that stands for it, its own where none does.

    Masks are taken in their order: one stands for itself unless it overlaps an earlier mask that
    does so. Empty masks overlap nothing.

    Args:
        masks: True inside.
        least_iou: overlaps of a higher intersection over union count.
    """
    flat = masks.flatten(1).float()
    shared, areas = flat @ flat.T, flat.sum(1)
    union = areas[:, None] + areas - shared
    same = (shared > least_iou * union).cpu()
    standing = torch.zeros(len(masks), dtype=torch.bool)
    result = torch.arange(len(masks))
    for index in range(len(masks)):
        earlier = (same[index] & standing).nonzero()
        if len(earlier):
            result[index] = earlier[0, 0]
        else:
            standing[index] = True
    return result.to(masks.device)
