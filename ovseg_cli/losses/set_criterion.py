"""Mask2Former's loss: match predictions with annotations, then class, mask and dice losses.

Cheng et al., CVPR 2022, sections 3.2.1 and 3.3. Every loss is divided by a number that is summed
over all processes, so a batch gives the same gradient however it is spread over them. The released
code takes the mean of the class weights of each process instead: `normaliser="process"`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..training.distributed import world_size
from ..training.seeds import seed_of
from .masks import binary_cross_entropy, dice_loss, sampled
from .matches import (
    MaskTargets,
    Matches,
    Normaliser,
    annotated_count,
    class_loss,
    matched_pairs,
    of_matches,
)
from .matching import matching_cost
from .points import Points, RandomPoints


@dataclass(frozen=True)
class SetCriterion:
    """The loss and its options; the defaults are the paper's.

    Attributes:
        class_weight: weight of the class loss, and of the class in matching.
        mask_weight: weight of the masks' cross-entropy, in both.
        dice_weight: weight of the dice loss, in both.
        no_object_weight: weight of unmatched queries in the class loss.
        points: points a mask.
        oversample: candidates a point.
        importance: share of the points taken where the mask is least certain.
        normaliser: `global` sums of all processes, or each `process`'s mean as released.
        class_losses: of `every` prediction, or of the `last` alone; all of them match by class.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    normaliser: Normaliser = "global"
    class_losses: Literal["every", "last"] = "every"

    def __call__(
        self,
        predictions: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[MaskTargets],
        *,
        seed: int,
        step: int,
        counts: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses `class`, `mask` and `dice`, each summed over the predictions.

        Args:
            predictions: class logits (B, Q, K+1) and mask logits (B, Q, h, w) of each layer.
            targets: the annotations of each image.
            seed: what the random points depend on, besides step, image and layer.
            step: the training step.
            counts: queries of each image, the others being padding; None for all Q.
        """
        totals: dict[str, Tensor] = {}
        weights = {"class": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        for layer, (class_logits, mask_logits) in enumerate(predictions):
            points = self._points(targets, seed, step, layer, mask_logits.device)
            losses = self.losses(class_logits, mask_logits, targets, points, counts=counts)
            if self.class_losses == "last" and layer < len(predictions) - 1:
                del losses["class"]
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + weights[name] * loss
        return totals

    @torch.no_grad()
    def ever_matched(
        self,
        predictions: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[MaskTargets],
        *,
        seed: int,
        step: int,
        counts: Sequence[int] | None = None,
    ) -> Bool[Tensor, "B Q"]:
        """True for queries that some prediction matches; arguments as of a call.

        Where unmatched queries have no weight the losses are those of these queries alone: an
        assignment stays the cheapest when rows are taken away that it does not use.
        """
        first = predictions[0][0]
        matched_once = first.new_zeros(first.shape[:2], dtype=torch.bool)
        for layer, (class_logits, mask_logits) in enumerate(predictions):
            where = self._points(targets, seed, step, layer, mask_logits.device).for_matching()
            matches = self.matches(class_logits, mask_logits, targets, where, counts=counts)
            matched_once[matches.images, matches.queries] = True
        return matched_once

    def losses(
        self,
        class_logits: Float[Tensor, "B Q K"],
        mask_logits: Float[Tensor, "B Q h w"],
        targets: Sequence[MaskTargets],
        points: Points,
        *,
        counts: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted losses `class`, `mask` and `dice` of one prediction, in float32.

        Args:
            class_logits: (B, Q, K) the last is no object.
            mask_logits: (B, Q, h, w) above 0 is inside.
            targets: the annotations of each image.
            points: where masks are compared.
            counts: queries of each image, the others being padding; None for all Q.
        """
        counts = counts or [class_logits.shape[1]] * len(class_logits)
        with torch.autocast(mask_logits.device.type, enabled=False):
            class_logits, mask_logits = class_logits.float(), mask_logits.float()
            where = points.for_matching()
            matches = self.matches(class_logits, mask_logits, targets, where, counts=counts)
            return {
                "class": class_loss(
                    class_logits,
                    targets,
                    matches,
                    no_object_weight=self.no_object_weight,
                    normaliser=self.normaliser,
                    counts=counts,
                ),
                **self._mask_losses(mask_logits, targets, matches, points),
            }

    @torch.no_grad()
    def matches(
        self,
        class_logits: Float[Tensor, "B Q K"],
        mask_logits: Float[Tensor, "B Q h w"],
        targets: Sequence[MaskTargets],
        points: Float[Tensor, "B P 2"],
        *,
        counts: Sequence[int] | None = None,
    ) -> Matches:
        """Which query takes which annotation.

        Args:
            class_logits: (B, Q, K) the last is no object.
            mask_logits: (B, Q, h, w) above 0 is inside.
            targets: the annotations of each image.
            points: (B, P, 2) where masks are compared, one set an image.
            counts: queries of each image, the others being padding; None for all Q.
        """
        counts = counts or [class_logits.shape[1]] * len(class_logits)
        with torch.autocast(mask_logits.device.type, enabled=False):
            class_logits, mask_logits = class_logits.float(), mask_logits.float()
            costs = self.costs(class_logits, mask_logits, targets, points).cpu()
        of_images = [
            cost[:count, : len(target.labels)]
            for cost, target, count in zip(costs, targets, counts, strict=True)
        ]
        return matched_pairs(of_images, device=mask_logits.device)

    def costs(
        self,
        class_logits: Float[Tensor, "B Q K"],
        mask_logits: Float[Tensor, "B Q h w"],
        targets: Sequence[MaskTargets],
        points: Float[Tensor, "B P 2"],
    ) -> Float[Tensor, "B Q M"]:
        """The matching costs; images with fewer annotations than others have idle last columns.

        Args:
            class_logits: (B, Q, K) the last is no object.
            mask_logits: (B, Q, h, w) above 0 is inside.
            targets: the annotations of each image.
            points: (B, P, 2) where masks are compared, one set an image.
        """
        inside = [
            sampled(target.masks.unsqueeze(0), where.unsqueeze(0))[0]
            for target, where in zip(targets, points, strict=True)
        ]
        return matching_cost(
            class_logits,
            sampled(mask_logits, points),
            pad_sequence([target.labels for target in targets], batch_first=True),
            pad_sequence(inside, batch_first=True),
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
        )

    def _points(
        self, targets: Sequence[MaskTargets], seed: int, step: int, layer: int, device: torch.device
    ) -> RandomPoints:
        return RandomPoints(
            [seed_of(seed, step, target.image_id, layer) for target in targets],
            count=self.points,
            oversample=self.oversample,
            importance=self.importance,
            device=device,
        )

    def _mask_losses(
        self,
        mask_logits: Tensor,
        targets: Sequence[MaskTargets],
        matches: Matches,
        points: Points,
    ) -> dict[str, Tensor]:
        count = annotated_count(targets, self.normaliser, like=mask_logits)
        logits = mask_logits[matches.images, matches.queries]
        masks = of_matches([target.masks for target in targets], matches)
        if not len(logits):
            nothing = mask_logits.sum() * 0.0
            return {"mask": nothing, "dice": nothing}
        where = points.for_losses(logits.detach(), matches.counts)
        predicted = sampled(logits.unsqueeze(1), where).squeeze(1)
        inside = sampled(masks.unsqueeze(1), where).squeeze(1)
        share = world_size() / count
        return {
            "mask": binary_cross_entropy(predicted, inside).sum() * share,
            "dice": dice_loss(predicted, inside).sum() * share,
        }
