"""MaskFormer's loss: as Mask2Former's, but focal and dice on every pixel of the masks.

Cheng et al., Per-Pixel Classification is Not All You Need for Semantic Segmentation, NeurIPS 2021,
section 3.3; OVSeg (1, 20, 1) and FreeSeg (1, 20, 5) are trained with it. As released, the matching
compares masks at the predictions' size, and the losses at the annotations'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..training.distributed import world_size
from .focal import focal_loss, pairwise_focal_loss
from .masks import dice_loss, pairwise_dice_loss
from .matches import (
    MaskTargets,
    Matches,
    Normaliser,
    annotated_count,
    class_loss,
    matched_pairs,
)


@dataclass(frozen=True)
class FullMaskCriterion:
    """The loss and its options; the defaults are MaskFormer's.

    Attributes:
        class_weight: weight of the class loss, and of the class in matching.
        mask_weight: weight of the focal loss, in both.
        dice_weight: weight of the dice loss, in both.
        no_object_weight: weight of unmatched queries in the class loss.
        normaliser: `global` sums of all processes, or each `process`'s mean as released.
    """

    class_weight: float = 1.0
    mask_weight: float = 20.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1
    normaliser: Normaliser = "global"

    def __call__(
        self,
        predictions: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[MaskTargets],
        *,
        seed: int,
        step: int,
    ) -> dict[str, Tensor]:
        """Weighted losses `class`, `mask` and `dice`, each summed over the predictions.

        Args:
            predictions: class logits (B, Q, K+1) and mask logits (B, Q, h, w) of each layer.
            targets: the annotations of each image.
            seed: without effect: no point is drawn.
            step: without effect.
        """
        weights = {"class": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        losses = [self.losses(*prediction, targets) for prediction in predictions]
        return {
            name: weight * torch.stack([of_layer[name] for of_layer in losses]).sum()
            for name, weight in weights.items()
        }

    def losses(
        self,
        class_logits: Float[Tensor, "B Q K"],
        mask_logits: Float[Tensor, "B Q h w"],
        targets: Sequence[MaskTargets],
    ) -> dict[str, Tensor]:
        """The unweighted losses `class`, `mask` and `dice` of one prediction, in float32.

        Args:
            class_logits: (B, Q, K) the last is no object.
            mask_logits: (B, Q, h, w) above 0 is inside.
            targets: the annotations of each image.
        """
        with torch.autocast(mask_logits.device.type, enabled=False):
            class_logits, mask_logits = class_logits.float(), mask_logits.float()
            matches = self.matches(class_logits, mask_logits, targets)
            return {
                "class": class_loss(
                    class_logits,
                    targets,
                    matches,
                    no_object_weight=self.no_object_weight,
                    normaliser=self.normaliser,
                ),
                **self._mask_losses(mask_logits, targets, matches),
            }

    @torch.no_grad()
    def matches(
        self,
        class_logits: Float[Tensor, "B Q K"],
        mask_logits: Float[Tensor, "B Q h w"],
        targets: Sequence[MaskTargets],
    ) -> Matches:
        """Which query takes which annotation.

        Args:
            class_logits: (B, Q, K) the last is no object.
            mask_logits: (B, Q, h, w) above 0 is inside.
            targets: the annotations of each image.
        """
        costs = [
            self.cost(classes, masks, target).cpu()
            for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True)
        ]
        return matched_pairs(costs, device=mask_logits.device)

    def cost(
        self,
        class_logits: Float[Tensor, "Q K"],
        mask_logits: Float[Tensor, "Q h w"],
        target: MaskTargets,
    ) -> Float[Tensor, "Q M"]:
        """What it would cost to give a query an annotation of its image.

        Args:
            class_logits: (Q, K) the last is no object.
            mask_logits: (Q, h, w) above 0 is inside.
            target: M annotations, whose masks are brought to the predictions' size by taking the
                nearest pixel.
        """
        nearest = F.interpolate(target.masks[:, None], size=mask_logits.shape[-2:], mode="nearest")
        logits, inside = mask_logits.flatten(1), nearest.flatten(1)
        return (
            -self.class_weight * class_logits.softmax(-1)[:, target.labels]
            + self.mask_weight * pairwise_focal_loss(logits, inside)
            + self.dice_weight * pairwise_dice_loss(logits, inside)
        )

    def _mask_losses(
        self, mask_logits: Tensor, targets: Sequence[MaskTargets], matches: Matches
    ) -> dict[str, Tensor]:
        """Image by image, and again for the gradient: all full masks at once would not fit."""
        share = world_size() / annotated_count(targets, self.normaliser, like=mask_logits)
        sums = mask_logits.sum() * 0.0, mask_logits.sum() * 0.0
        for image, target in enumerate(targets):
            here = matches.images == image
            logits = mask_logits[image, matches.queries[here]]
            masks = target.masks[matches.annotations[here]]
            if len(logits):
                found = checkpoint(_focal_and_dice, logits, masks, use_reentrant=False)
                sums = sums[0] + found[0], sums[1] + found[1]
        return {"mask": sums[0] * share, "dice": sums[1] * share}


def _focal_and_dice(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    resized = F.interpolate(
        logits[None], size=masks.shape[-2:], mode="bilinear", align_corners=False
    )[0]
    predicted, inside = resized.flatten(1), masks.flatten(1)
    return focal_loss(predicted, inside).sum(), dice_loss(predicted, inside).sum()
