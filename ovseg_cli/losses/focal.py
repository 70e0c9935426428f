"""The focal loss of masks: cross-entropy that counts uncertain pixels more.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ALPHA = 0.25  # weight of pixels inside, 1 - ALPHA of those outside
GAMMA = 2.0


def focal_loss(logits: Float[Tensor, "N P"], inside: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """Mean focal loss of each mask's pixels.

    Args:
        logits: (N, P) predicted.
        inside: (N, P) annotated, 0 or 1.
    """
    of_inside, of_outside = _of_both(logits)
    return torch.where(inside > 0.5, of_inside, of_outside).mean(1)


def pairwise_focal_loss(
    logits: Float[Tensor, "*B Q P"], inside: Float[Tensor, "*B M P"]
) -> Float[Tensor, "*B Q M"]:
    """`focal_loss` of every prediction with every annotation, image by image.

    Args:
        logits: (*B, Q, P) predicted.
        inside: (*B, M, P) annotated, 0 or 1.
    """
    of_inside, of_outside = _of_both(logits)
    return (of_inside @ inside.mT + of_outside @ (1 - inside).mT) / logits.shape[-1]


def _of_both(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of every pixel, were it inside and were it outside."""
    probabilities = logits.sigmoid()
    of_inside = ALPHA * (1 - probabilities) ** GAMMA * F.softplus(-logits)
    of_outside = (1 - ALPHA) * probabilities**GAMMA * F.softplus(logits)
    return of_inside, of_outside
