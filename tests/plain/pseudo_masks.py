"""The choice of pseudo masks one mask after the other, on every pixel."""

from torch import Tensor


def plain_overlap(first: Tensor, second: Tensor, overlap: str) -> float:
    shared = float((first & second).sum())
    total = float(first.sum() + second.sum())
    if overlap == "dice":
        return (2 * shared + 1) / (total + 1)
    return shared / (total - shared) if total else 0.0


def plain_pseudo_masks(
    masks: Tensor,
    scores: Tensor,
    annotated: Tensor,
    *,
    score_threshold: float,
    overlap: str,
    overlap_threshold: float,
) -> list[int]:
    added: list[int] = []
    for index in sorted(range(len(masks)), key=lambda index: -float(scores[index])):
        if float(scores[index]) <= score_threshold:
            continue
        present = [*annotated, *(masks[other] for other in added)]
        overlaps = [plain_overlap(masks[index], other, overlap) for other in present]
        if all(value < overlap_threshold for value in overlaps):
            added.append(index)
    return added
