"""Which of a teacher's masks become training masks of its student.

MasQCLIP (Xu et al., ICCV 2023), progressive distillation: a confident mask that overlaps with no
annotated mask and with no better mask is taken for an object that nobody annotated.

Of the released code: the score is the object score times the mask's mean probability (the paper's
is the object score), overlap is smoothed Dice at random points (the paper's is IoU). Differs: all
overlaps come from a matrix product, and the suppression from a few matrix operations.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .masks import sampled

Overlap = Literal["dice", "iou"]


class ComparisonPoints(NamedTuple):
    """Where masks are compared: x and y as a share of width and height, 0 to 1.

    Attributes:
        with_annotated: (P, 2) for a teacher's masks with annotated ones.
        with_others: (P, 2) for a teacher's masks with one another.
    """

    with_annotated: Float[Tensor, "P 2"]
    with_others: Float[Tensor, "P 2"]


def random_points(count: int, *, seed: int, device: torch.device) -> ComparisonPoints:
    """Two independent draws of uniform points.

    Args:
        count: P.
        seed: decides the points, with the device and nothing else.
        device: where they are drawn.
    """
    generator = torch.Generator(device).manual_seed(seed)
    first, second = torch.rand(2, count, 2, generator=generator, device=device)
    return ComparisonPoints(first, second)


def pseudo_mask_scores(
    mask_logits: Float[Tensor, "N H W"], object_scores: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The object score times the mean probability inside the mask; 0 for an empty mask.

    Args:
        mask_logits: (N, H, W) above 0 is inside.
        object_scores: (N,) 0 to 1.
    """
    inside = (mask_logits > 0).flatten(1)
    probabilities = mask_logits.float().sigmoid().flatten(1)
    return object_scores * (probabilities * inside).sum(1) / inside.sum(1).clamp(min=1)


@torch.no_grad()
def pseudo_masks(
    masks: Bool[Tensor, "N H W"],
    scores: Float[Tensor, " N"],
    annotated: Bool[Tensor, "M H W"],
    *,
    score_threshold: float = 0.8,
    overlap: Overlap = "dice",
    overlap_threshold: float = 0.1,
    points: ComparisonPoints | None = None,
) -> Int[Tensor, " A"]:
    """The indices of the masks to add to the annotated ones, best score first.

    Args:
        masks: (N, H, W) the teacher's.
        scores: (N,) 0 to 1, see `pseudo_mask_scores`.
        annotated: (M, H, W) what is annotated already, possibly nothing.
        score_threshold: a mask needs a greater score.
        overlap: `dice`, as released, or `iou`, as published; see `mask_overlaps`.
        overlap_threshold: a mask needs a smaller overlap with every annotated and every added one.
        points: where masks are compared; None for every pixel.
    """
    best_first = scores.argsort(descending=True, stable=True)
    best_first = best_first[scores[best_first] > score_threshold]
    at_annotated, at_others = points or (None, None)
    with_annotated = mask_overlaps(
        _values(masks[best_first], at_annotated), _values(annotated, at_annotated), overlap
    )
    best_first = best_first[(with_annotated < overlap_threshold).all(1)]
    values = _values(masks[best_first], at_others)
    overlaps = mask_overlaps(values, values, overlap)
    return best_first[unsuppressed(overlaps >= overlap_threshold)]


def mask_overlaps(
    first: Float[Tensor, "N P"], second: Float[Tensor, "M P"], overlap: Overlap
) -> Float[Tensor, "N M"]:
    """The overlap of every pair of masks, in float32.

    Dice is smoothed by one point, (2 |a b| + 1) / (|a| + |b| + 1), so that tiny masks overlap with
    each other wherever they are: below 0.1 together they need more than 9 points. The IoU of two
    empty masks is 0.

    Args:
        first: (N, P) 0 to 1.
        second: (M, P) 0 to 1.
        overlap: `dice` or `iou`.
    """
    with torch.autocast(first.device.type, enabled=False):
        shared = first @ second.T
    total = first.sum(1)[:, None] + second.sum(1)
    if overlap == "dice":
        return (2 * shared + 1) / (total + 1)
    return shared / (total - shared).clamp(min=torch.finfo(shared.dtype).tiny)


def unsuppressed(conflicts: Bool[Tensor, "N N"]) -> Bool[Tensor, " N"]:
    """Which items stay if each in turn is dropped for a conflict with an earlier one that stayed.

    The first t items are settled after t turns, mostly all of them after two or three: the only
    fixed point is the sequential result.

    Args:
        conflicts: (N, N) of every pair, best item first; only those above the diagonal are read.
    """
    earlier = conflicts.triu(1)
    stays = torch.ones(len(conflicts), dtype=torch.bool, device=conflicts.device)
    while True:
        settled = ~(earlier & stays[:, None]).any(0)
        if torch.equal(settled, stays):
            return stays
        stays = settled


def _values(masks: Tensor, points: Tensor | None) -> Tensor:
    """(N, P) of N masks, at the points or at every pixel."""
    if points is None:
        return masks.flatten(1).float()
    if not len(masks):
        return points.new_zeros((0, len(points)))
    return sampled(masks[None].float(), points[None])[0]
