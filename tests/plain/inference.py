"""The three results as published: every mask and every class at every pixel, a loop over masks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import Frame

Segments = list[tuple[int, int, bool]]  # id, class, is thing


def upsampled(mask_logits: Tensor, frame: Frame) -> Tensor:
    """(N, H, W): to the padded size, without its padding, to the original size."""
    height, width = frame.resized
    padded = resized(mask_logits, frame.padded, align_corners=frame.align_corners)
    return resized(padded[:, :height, :width], frame.original)


def resized(masks: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=align_corners)[0]


def semantic(class_probabilities: Tensor, logits: Tensor) -> Tensor:
    """(K, H, W) every class's score at every pixel."""
    return torch.einsum("nk,nhw->khw", class_probabilities, logits.sigmoid())


def panoptic(
    class_probabilities: Tensor,
    void: Tensor,
    logits: Tensor,
    is_thing: Tensor,
    *,
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, Segments]:
    """(H, W) ids, 0 where nothing is, and segments; void is (N,), a class that is no segment."""
    scores, labels = torch.cat([class_probabilities, void[:, None]], 1).max(-1)
    keep = (labels != len(is_thing)) & (scores > object_threshold)
    scores, labels, masks = scores[keep], labels[keep], logits[keep].sigmoid()
    ids = torch.zeros(logits.shape[1:], dtype=torch.int32)
    segments: Segments = []
    stuff: dict[int, int] = {}
    if not len(masks):
        return ids, segments
    winner = (scores[:, None, None] * masks).argmax(0)
    for n, label in enumerate(labels.tolist()):
        mask = (winner == n) & (masks[n] >= 0.5)
        won, own = (winner == n).sum().item(), (masks[n] >= 0.5).sum().item()
        if won == 0 or own == 0 or mask.sum().item() == 0 or won / own < overlap_threshold:
            continue
        if label in stuff:
            ids[mask] = stuff[label]
            continue
        segments.append((len(segments) + 1, label, bool(is_thing[label])))
        ids[mask] = len(segments)
        if not is_thing[label]:
            stuff[label] = len(segments)
    return ids, segments


def instances(
    class_probabilities: Tensor, logits: Tensor, is_thing: Tensor, *, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (I, H, W), classes and scores of the best pairs, without those that are stuff."""
    classes = class_probabilities.shape[1]
    count = min(top_k, class_probabilities.numel())
    scores, places = class_probabilities.flatten().topk(count, sorted=False)
    keep = is_thing[places % classes]
    scores, labels, logits = scores[keep], places[keep] % classes, logits[places[keep] // classes]
    masks = (logits > 0).float()
    sums = (logits.sigmoid().flatten(1) * masks.flatten(1)).sum(1)
    return masks > 0, labels, scores * sums / (masks.flatten(1).sum(1) + 1e-6)
