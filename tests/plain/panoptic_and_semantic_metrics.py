"""PQ and mIoU the obvious way: pairs of ids counted by `np.unique`, then loops over them.

Kirillov et al., CVPR 2019, section 4, with void and crowds; detectron2's two rules for mIoU.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

VOID = -1


class Segments(NamedTuple):
    """A map of segment numbers (0 is none), and of each segment from 1 on its class and crowd."""

    ids: np.ndarray
    labels: list[int]
    crowd: list[bool]


def pairs(first: np.ndarray, second: np.ndarray) -> dict[tuple[int, int], int]:
    """Pixels of every pair of values that is there."""
    width = int(second.max()) + 2
    codes, counts = np.unique((first + 1) * width + second + 1, return_counts=True)
    found = zip(codes.tolist(), counts.tolist(), strict=True)
    return {(code // width - 1, code % width - 1): count for code, count in found}


def panoptic_counts(truth: Segments, found: Segments) -> dict[int, list[float]]:
    """IoU sum, matches, false positives and misses of each class in an image."""
    shared = pairs(truth.ids, found.ids)
    area: defaultdict[int, int] = defaultdict(int)
    found_area: defaultdict[int, int] = defaultdict(int)
    for (t, f), count in shared.items():
        area[t] += count
        found_area[f] += count
    counts: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    matched, found_matched = set(), set()
    for (t, f), count in shared.items():
        if 0 in (t, f) or truth.crowd[t - 1] or truth.labels[t - 1] != found.labels[f - 1]:
            continue
        iou = count / (area[t] + found_area[f] - count - shared.get((0, f), 0))
        if iou > 0.5:
            matched.add(t)
            found_matched.add(f)
            counts[truth.labels[t - 1]][0] += iou
            counts[truth.labels[t - 1]][1] += 1
    crowd_of = {label: t for t, label in enumerate(truth.labels, 1) if truth.crowd[t - 1]}
    for t, label in enumerate(truth.labels, 1):
        if t not in matched and not truth.crowd[t - 1]:
            counts[label][3] += 1
    for f, label in enumerate(found.labels, 1):
        ignored = shared.get((0, f), 0) + shared.get((crowd_of.get(label, -1), f), 0)
        if f not in found_matched and found_area[f] and ignored <= 0.5 * found_area[f]:
            counts[label][2] += 1
    return counts


class PlainPanoptic:
    """PQ, SQ and RQ of each class over images."""

    def __init__(self) -> None:
        self.counts: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])

    def update(self, truth: Segments, found: Segments) -> None:
        for label, counts in panoptic_counts(truth, found).items():
            self.counts[label] = [a + b for a, b in zip(self.counts[label], counts, strict=True)]

    def compute(self) -> dict[int, tuple[float, float, float]]:
        result = {}
        for label, (iou, matched, wrong, missed) in self.counts.items():
            if all_counts := matched + wrong / 2 + missed / 2:
                sq = iou / matched if matched else 0.0
                result[label] = (iou / all_counts, sq, matched / all_counts)
        return result


class PlainSemantic:
    """Both mIoU rules over images, from pixels of every pair of classes."""

    def __init__(self) -> None:
        self.pixels: defaultdict[tuple[int, int], int] = defaultdict(int)

    def update(self, truth: np.ndarray, found: np.ndarray) -> None:
        for pair, count in pairs(truth, found).items():
            self.pixels[pair] += count

    def compute(self) -> tuple[float, float, dict[int, float]]:
        """Over classes of the truth; over those of truth or prediction; and per class."""
        labelled = {pair: count for pair, count in self.pixels.items() if pair[0] != VOID}
        in_truth = {t for t, _ in labelled}
        everywhere = in_truth | {f for _, f in labelled if f != VOID}
        iou = {}
        for label in everywhere:
            touched = sum(count for pair, count in labelled.items() if label in pair)
            iou[label] = labelled.get((label, label), 0) / touched
        both = sum(iou[label] for label in in_truth)
        nothing = float("nan")
        return (
            both / len(in_truth) if in_truth else nothing,
            both / len(everywhere) if everywhere else nothing,
            iou,
        )
