"""What the criteria of sets of masks share: annotations, their matches with queries, class losses.

Carion et al., DETR, ECCV 2020, section 3.1; Cheng et al., CVPR 2022, section 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..training.distributed import global_sum, world_size
from .matching import matched

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
    labels[matches.images, matches.queries] = of_matches(
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


def of_matches(annotations: Sequence[Tensor], matches: Matches) -> Tensor:
    """The matched annotations' rows, in the order of the matches.

    Args:
        annotations: masks or labels, a row an annotation, one tensor an image.
        matches: which of them are wanted.
    """
    chosen = torch.split(matches.annotations, list(matches.counts))
    return torch.cat([rows[index] for rows, index in zip(annotations, chosen, strict=True)])
