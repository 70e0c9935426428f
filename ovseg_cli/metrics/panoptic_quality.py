"""Panoptic quality: PQ = SQ x RQ (Kirillov et al., CVPR 2019, section 4), with COCO's rules.

A predicted and an annotated segment of one class match where their IoU exceeds 0.5; void pixels
are taken out of the union. Crowd segments are never matched nor missed, and a prediction that
lies by more than half in void and in its class's crowd is no false positive. Where an image has
several crowd segments of a class, the last one counts, as in COCO's evaluator.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups, mean_of


@dataclass(frozen=True)
class GroupQuality:
    """Means over the classes of a group that were annotated or predicted; `classes` of them."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class PanopticQualityResult:
    """Panoptic quality, 0 to 1.

    Attributes:
        pq: (K,) per class; nan where it was neither annotated nor predicted.
        sq: (K,) mean IoU of the matched segments.
        rq: (K,) F1 score of the matching.
        groups: means by group name.
    """

    pq: np.ndarray
    sq: np.ndarray
    rq: np.ndarray
    groups: dict[str, GroupQuality]


class PanopticQuality:
    """Gathers matches, false positives and misses of every class over all images."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.iou_sum = np.zeros(classes, dtype=np.float64)
        self.matched = np.zeros(classes, dtype=np.int64)
        self.false_positives = np.zeros(classes, dtype=np.int64)
        self.missed = np.zeros(classes, dtype=np.int64)

    def update(
        self,
        prediction: Int[Tensor, "H W"],
        prediction_labels: Int[Tensor, " S"],
        target: Int[Tensor, "H W"],
        target_labels: Int[Tensor, " M"],
        target_is_crowd: Bool[Tensor, " M"],
    ) -> None:
        """Counts an image's segments.

        Args:
            prediction: (H, W) 0 is none, i is the i-th segment of `prediction_labels`, from 1.
            prediction_labels: (S,) class indices.
            target: (H, W) 0 is void, i is the i-th segment of `target_labels`, from 1.
            target_labels: (M,) class indices.
            target_is_crowd: (M,) COCO's crowd flag.

        Raises:
            ValueError: a map has a segment that its labels lack.
        """
        overlap = _overlaps(target, len(target_labels), prediction, len(prediction_labels))
        truth, crowd = _numpy(target_labels), _numpy(target_is_crowd).astype(bool)
        found = _numpy(prediction_labels)
        shared = overlap[1:, 1:]
        areas, found_areas = overlap[1:].sum(1), overlap[:, 1:].sum(0)
        union = areas[:, None] + found_areas - shared - overlap[0, 1:]
        iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
        match = (iou > 0.5) & (truth[:, None] == found) & ~crowd[:, None]
        rows, columns = match.nonzero()
        np.add.at(self.iou_sum, truth[rows], iou[rows, columns])
        np.add.at(self.matched, truth[rows], 1)
        np.add.at(self.missed, truth[~match.any(1) & ~crowd], 1)
        ignored = overlap[0, 1:] + _in_crowd(shared, truth, crowd, found)
        wrong = ~match.any(0) & (found_areas > 0) & (ignored <= 0.5 * found_areas)
        np.add.at(self.false_positives, found[wrong], 1)

    def compute(self, groups: Groups) -> PanopticQualityResult:
        """The result over all images so far.

        Args:
            groups: class indices by name.
        """
        matched = self.matched.astype(np.float64)
        denominator = matched + 0.5 * self.false_positives + 0.5 * self.missed
        there = denominator > 0
        nothing = np.where(there, 0.0, np.nan)
        pq = np.divide(self.iou_sum, denominator, out=nothing.copy(), where=there)
        rq = np.divide(matched, denominator, out=nothing.copy(), where=there)
        sq = np.divide(self.iou_sum, matched, out=nothing.copy(), where=matched > 0)
        qualities = {
            name: GroupQuality(
                pq=mean_of(pq, members),
                sq=mean_of(sq, members),
                rq=mean_of(rq, members),
                classes=int(there[list(members)].sum()),
            )
            for name, members in groups.items()
        }
        return PanopticQualityResult(pq, sq, rq, qualities)


def _overlaps(target: Tensor, targets: int, prediction: Tensor, predictions: int) -> np.ndarray:
    for name, ids, count in (("target", target, targets), ("prediction", prediction, predictions)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) <= count:
            raise ValueError(f"{name}: segments {ids.min()} to {ids.max()}, labels for {count}")
    cells = target.long() * (predictions + 1) + prediction.long()
    counts = cells.flatten().bincount(minlength=(targets + 1) * (predictions + 1))
    return _numpy(counts).reshape(targets + 1, predictions + 1)


def _in_crowd(
    shared: np.ndarray, truth: np.ndarray, crowd: np.ndarray, found: np.ndarray
) -> np.ndarray:
    pixels = np.zeros(len(found), dtype=np.int64)
    for segment in crowd.nonzero()[0]:
        same = found == truth[segment]
        pixels[same] = shared[segment, same]
    return pixels


def _numpy(values: Tensor) -> np.ndarray:
    array: np.ndarray = torch.Tensor.numpy(values.detach().cpu())
    return array
