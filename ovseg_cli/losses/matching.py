"""Hungarian matching of predictions with annotations.

Carion et al., DETR, ECCV 2020, section 3.1.
"""

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .masks import pairwise_binary_cross_entropy, pairwise_dice_loss

_NEVER = 1e6


def matching_cost(
    class_logits: Float[Tensor, "*B Q K"],
    mask_logits: Float[Tensor, "*B Q P"],
    labels: Int[Tensor, "*B M"],
    inside: Float[Tensor, "*B M P"],
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
) -> Float[Tensor, "*B Q M"]:
    """What it would cost to give a prediction an annotation of its image (Cheng et al., CVPR 2022).

    Args:
        class_logits: (*B, Q, K) the last is no object.
        mask_logits: (*B, Q, P) at points shared by all masks of an image.
        labels: (*B, M) annotated classes.
        inside: (*B, M, P) annotated masks at the same points, 0 to 1.
        class_weight: weight of minus the class's probability.
        mask_weight: weight of the cross-entropy.
        dice_weight: weight of the dice loss.
    """
    columns = labels.unsqueeze(-2).expand(*class_logits.shape[:-1], -1)
    return (
        -class_weight * class_logits.softmax(-1).gather(-1, columns)
        + mask_weight * pairwise_binary_cross_entropy(mask_logits, inside)
        + dice_weight * pairwise_dice_loss(mask_logits, inside)
    )


def matched(cost: Float[Tensor, "Q M"]) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """The cheapest one-to-one assignment: predictions, ascending, and the annotation of each.

    A cost that is not a number, or infinite, counts as too dear to choose.

    Args:
        cost: (Q, M) cost of each pair.
    """
    finite = torch.nan_to_num(cost.detach().float(), nan=_NEVER, posinf=_NEVER, neginf=_NEVER)
    queries, annotations = linear_sum_assignment(finite.cpu().numpy())
    return (
        torch.as_tensor(queries, dtype=torch.int64, device=cost.device),
        torch.as_tensor(annotations, dtype=torch.int64, device=cost.device),
    )
