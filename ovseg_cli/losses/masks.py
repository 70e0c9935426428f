"""Mask losses on sampled points.

Kirillov et al., PointRend, CVPR 2020, section 3.1: of many random points those where a mask is
least certain, and some random ones; Cheng et al., CVPR 2022, section 3.3, takes it for whole masks.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sampled(
    maps: Float[Tensor, "N C h w"], points: Float[Tensor, "N P 2"]
) -> Float[Tensor, "N C P"]:
    """Bilinear samples of maps, zero outside.

    Args:
        maps: (N, C, h, w) any maps.
        points: (N, P, 2) x and y as a share of width and height, 0 to 1.
    """
    grid = (2 * points - 1).unsqueeze(2)
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=False).squeeze(3)


@torch.no_grad()
def uncertain_points(
    mask_logits: Float[Tensor, "N h w"],
    candidates: Float[Tensor, "N R 2"],
    others: Float[Tensor, "N O 2"],
    *,
    count: int,
) -> Float[Tensor, "N P 2"]:
    """The candidates where each mask is least certain (its logit nearest zero), then the others.

    Args:
        mask_logits: (N, h, w) the masks.
        candidates: (N, R, 2) random points.
        others: (N, O, 2) further points, taken as they are.
        count: how many candidates to keep.
    """
    certainty = sampled(mask_logits.unsqueeze(1), candidates).squeeze(1).abs()
    chosen = certainty.topk(count, dim=1, largest=False, sorted=False).indices
    kept = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
    return torch.cat([kept, others], dim=1)


def binary_cross_entropy(
    logits: Float[Tensor, "N P"], inside: Float[Tensor, "N P"]
) -> Float[Tensor, " N"]:
    """Mean cross-entropy of each mask's points.

    Args:
        logits: (N, P) predicted.
        inside: (N, P) annotated, 0 to 1.
    """
    return F.binary_cross_entropy_with_logits(logits, inside, reduction="none").mean(1)


def dice_loss(logits: Float[Tensor, "N P"], inside: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """One minus Dice's coefficient of each mask's points, smoothed by one point.

    Milletari et al., V-Net, 2016, without squares.

    Args:
        logits: (N, P) predicted.
        inside: (N, P) annotated, 0 to 1.
    """
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * inside).sum(1)
    total = probabilities.sum(1) + inside.sum(1)
    return 1 - (overlap + 1) / (total + 1)


def pairwise_binary_cross_entropy(
    logits: Float[Tensor, "*B Q P"], inside: Float[Tensor, "*B M P"]
) -> Float[Tensor, "*B Q M"]:
    """`binary_cross_entropy` of every prediction with every annotation, image by image.

    Args:
        logits: (*B, Q, P) predicted, at the same points for all masks of an image.
        inside: (*B, M, P) annotated, 0 to 1.
    """
    total = F.softplus(-logits) @ inside.mT + F.softplus(logits) @ (1 - inside).mT
    return total / logits.shape[-1]


def pairwise_dice_loss(
    logits: Float[Tensor, "*B Q P"], inside: Float[Tensor, "*B M P"]
) -> Float[Tensor, "*B Q M"]:
    """`dice_loss` of every prediction with every annotation, image by image.

    Args:
        logits: (*B, Q, P) predicted, at the same points for all masks of an image.
        inside: (*B, M, P) annotated, 0 to 1.
    """
    probabilities = logits.sigmoid()
    overlap = 2 * probabilities @ inside.mT
    total = probabilities.sum(-1).unsqueeze(-1) + inside.sum(-1).unsqueeze(-2)
    return 1 - (overlap + 1) / (total + 1)
