"""Mask2Former's loss: match predictions with annotations, then class, mask and dice losses.

Cheng et al., CVPR 2022, sections 3.2.1 and 3.3. Every loss is divided by a number that is summed
over all processes, so a batch gives the same gradient however it is spread over them. The released
code takes the mean of the class weights of each process instead: `normaliser="process"`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..training.distributed import global_sum, world_size
from .masks import binary_cross_entropy, dice_loss, sampled
from .matching import matched, matching_cost
from .points import Points, RandomPoints

Normaliser = Literal["global", "process"]
SMALLEST_COUNT = 1e-6  # a weighted mean over nothing is 0, not NaN


@dataclass(frozen=True)
class MaskTargets:
    """The annotations of an image.

    Attributes:
        masks: (M, H, W) 1 inside, 0 outside, of the network input's size.
        labels: (M,) classes.
        image_id: what the random points depend on.
    """

    masks: Float[Tensor, "M H W"]
    labels: Int[Tensor, " M"]
    image_id: int


@dataclass(frozen=True)
class Matches:
    """The pairs of a batch, image after image, queries ascending in each.

    Attributes:
        images: (R,) index of the image.
        queries: (R,) index of the query.
        annotations: (R,) index of the annotation in its image.
        counts: pairs in each image.
    """

    images: Int[Tensor, " R"]
    queries: Int[Tensor, " R"]
    annotations: Int[Tensor, " R"]
    counts: tuple[int, ...]


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
        masks = _of_matches([target.masks for target in targets], matches)
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


def matched_pairs(costs: Sequence[Float[Tensor, "_ _"]], *, device: torch.device) -> Matches:
    """The cheapest one-to-one assignment of every image.

    Args:
        costs: (Q, M) of each pair, one an image.
        device: where the indices are wanted.
    """
    pairs = [matched(cost) for cost in costs]
    found = tuple(len(queries) for queries, _ in pairs)
    return Matches(
        images=torch.arange(len(pairs)).repeat_interleave(torch.tensor(found)).to(device),
        queries=torch.cat([queries for queries, _ in pairs]).to(device),
        annotations=torch.cat([annotations for _, annotations in pairs]).to(device),
        counts=found,
    )


def class_loss(
    class_logits: Float[Tensor, "B Q K"],
    targets: Sequence[MaskTargets],
    matches: Matches,
    *,
    no_object_weight: float,
    normaliser: Normaliser,
    counts: Sequence[int] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy with the matched annotation's class, or with no object: a weighted mean.

    Args:
        class_logits: (B, Q, K) the last is no object.
        targets: the annotations of each image.
        matches: which query has which.
        no_object_weight: weight of unmatched queries.
        normaliser: `global` sums of all processes, or each `process`'s mean.
        counts: queries of each image, the others being padding; None for all Q.
    """
    no_object = class_logits.shape[-1] - 1
    labels = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    labels[matches.images, matches.queries] = _of_matches(
        [target.labels for target in targets], matches
    )
    weights = torch.ones_like(labels, dtype=torch.float32)
    weights[labels == no_object] = no_object_weight
    for image, queries in enumerate(counts or ()):
        weights[image, queries:] = 0
    losses = F.cross_entropy(class_logits.transpose(1, 2), labels, reduction="none")
    total, count = (losses * weights).sum(), weights.sum()
    if normaliser == "process":
        return total / count.clamp(min=SMALLEST_COUNT)
    return total * world_size() / global_sum(count).clamp(min=SMALLEST_COUNT)


def annotated_count(
    targets: Sequence[MaskTargets], normaliser: Normaliser, *, like: Tensor
) -> Float[Tensor, ""]:
    """What mask losses are divided by: the annotations of all processes, at least 1.

    Args:
        targets: the annotations of each image of this process.
        normaliser: `global`, or at least one a `process`.
        like: a tensor of the device wanted.
    """
    annotated = sum(len(target.labels) for target in targets)
    count = global_sum(like.new_tensor(float(annotated))).clamp(min=1)
    return count.clamp(min=world_size()) if normaliser == "process" else count


def _of_matches(annotations: Sequence[Tensor], matches: Matches) -> Tensor:
    chosen = torch.split(matches.annotations, list(matches.counts))
    return torch.cat([rows[index] for rows, index in zip(annotations, chosen, strict=True)])


def seed_of(*parts: int) -> int:
    """A seed from several numbers; equal only where all are equal, for all practical purposes."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
