"""Panoptic quality, worked by hand, by a slow loop, and beside torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ovseg_cli.torchvision_ops  # noqa: F401  torchmetrics imports torchvision
from ovseg_cli.metrics.panoptic_quality import PanopticQuality

ALL = {"all": (0, 1, 2)}
NONE = torch.zeros(0, dtype=torch.int64)


def ids(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def labels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def flags(*values: bool) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def random_segments(
    generator: torch.Generator, most: int, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rectangles painted over one another; every segment has a pixel."""
    painted = torch.zeros(12, 12, dtype=torch.int64)
    for segment in range(1, most + 1):
        top, left, height, width = torch.randint(0, 8, (4,), generator=generator).tolist()
        painted[top : top + height + 2, left : left + width + 2] = segment
    _, painted = painted.unique(return_inverse=True)
    if painted.min() == 0 and most == 0:
        painted = torch.zeros_like(painted)
    count = int(painted.max())
    kinds = torch.randint(0, classes, (count,), generator=generator)
    crowd = torch.zeros(count, dtype=torch.bool)
    if count:
        crowd[torch.randint(0, count, (1,), generator=generator)] = True
    return painted, kinds, crowd


def plain_counts(
    found: Tensor, kinds: Tensor, truth: Tensor, truth_kinds: Tensor, crowd: Tensor, label: int
) -> tuple[float, int, int, int]:
    """IoU sum, matches, false positives, misses of a class: a loop over pairs."""
    iou_sum, matched, matched_truth, matched_found = 0.0, 0, set(), set()
    mine = [s for s in range(len(kinds)) if kinds[s] == label]
    theirs = [s for s in range(len(truth_kinds)) if truth_kinds[s] == label]
    for t in theirs:
        for f in mine:
            a, b = truth == t + 1, (found == f + 1) & (truth != 0)
            iou = float((a & b).sum()) / float((a | b).sum()) if (a | b).any() else 0.0
            if iou > 0.5 and not crowd[t]:
                iou_sum, matched = iou_sum + iou, matched + 1
                matched_truth.add(t)
                matched_found.add(f)
    missed = sum(1 for t in theirs if t not in matched_truth and not crowd[t])
    wrong = 0
    for f in set(mine) - matched_found:
        area = found == f + 1
        ignored = area & (truth == 0)
        for t in [t for t in theirs if crowd[t]][-1:]:
            ignored |= area & (truth == t + 1)
        wrong += int(ignored.sum() <= 0.5 * area.sum())
    return iou_sum, matched, wrong, missed


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 100_000), st.integers(0, 6), st.integers(0, 6))
def test_counts_equal_the_plain_loop(seed: int, predicted: int, annotated: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found, kinds, _ = random_segments(generator, predicted, 3)
    truth, truth_kinds, crowd = random_segments(generator, annotated, 3)
    metric = PanopticQuality(3)
    metric.update(found, kinds, truth, truth_kinds, crowd)
    for label in range(3):
        iou_sum, matched, wrong, missed = plain_counts(
            found, kinds, truth, truth_kinds, crowd, label
        )
        assert metric.iou_sum[label] == pytest.approx(iou_sum, abs=1e-12)
        assert metric.matched[label] == matched
        assert metric.false_positives[label] == wrong
        assert metric.missed[label] == missed


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100_000), st.integers(0, 5))
def test_ground_truth_as_prediction_scores_exactly_one(seed: int, annotated: int) -> None:
    truth, kinds, crowd = random_segments(torch.Generator().manual_seed(seed), annotated, 3)
    metric = PanopticQuality(3)
    metric.update(truth, kinds, truth, kinds, torch.zeros_like(crowd))
    result = metric.compute(ALL)
    assert result.groups["all"].classes == len(kinds.unique())
    if len(kinds):
        assert result.groups["all"].pq == 1.0
        assert result.groups["all"].sq == 1.0


def test_a_table_worked_by_hand() -> None:
    # class 0: IoU 3/5 matched; class 1: predicted, never annotated; class 2: nowhere
    truth = ids([1, 1, 1, 1, 0, 0])
    found = ids([0, 1, 1, 1, 2, 2])
    metric = PanopticQuality(3)
    metric.update(found, labels(0, 1), truth, labels(0), flags(False))
    result = metric.compute(ALL)
    assert result.pq[0] == pytest.approx(3 / 4)
    assert np.isnan(result.pq[1])  # it lies in void, so it is no false positive
    assert result.groups["all"].classes == 1


def test_void_is_taken_out_of_the_union() -> None:
    metric = PanopticQuality(3)
    metric.update(ids([1, 1, 1, 1]), labels(0), ids([1, 1, 0, 0]), labels(0), flags(False))
    assert metric.compute(ALL).groups["all"].pq == 1.0


def test_a_crowd_is_neither_matched_nor_missed_and_excuses_its_own_class() -> None:
    truth = ids([1, 1, 1, 1])
    metric = PanopticQuality(3)
    metric.update(ids([1, 1, 2, 2]), labels(0, 1), truth, labels(0), flags(True))
    assert metric.matched.sum() == metric.missed.sum() == 0
    assert metric.false_positives.tolist() == [0, 1, 0]


def test_an_iou_of_one_half_is_no_match() -> None:
    metric = PanopticQuality(3)
    metric.update(ids([1, 0]), labels(0), ids([1, 1]), labels(0), flags(False))
    assert metric.matched.sum() == 0
    assert metric.missed[0] == metric.false_positives[0] == 1


def test_nothing_predicted_and_nothing_annotated_change_nothing() -> None:
    metric = PanopticQuality(3)
    metric.update(ids([0, 0]), NONE, ids([0, 0]), NONE, NONE.bool())
    assert metric.compute(ALL).groups["all"].classes == 0


def test_torchmetrics_agrees_where_there_is_neither_void_nor_crowd() -> None:
    theirs_class = pytest.importorskip("torchmetrics.detection").PanopticQuality
    generator = torch.Generator().manual_seed(5)
    metric = PanopticQuality(3)
    theirs = theirs_class(things={0, 1, 2}, stuffs={7}, return_per_class=True)
    for _ in range(4):
        found, kinds, _ = random_segments(generator, 5, 3)
        truth, truth_kinds, _ = random_segments(generator, 4, 3)
        found, truth = found + 1, truth + 1  # the ground is a segment too
        kinds = torch.cat([labels(0), kinds])
        truth_kinds = torch.cat([labels(0), truth_kinds])
        metric.update(found, kinds, truth, truth_kinds, torch.zeros(len(truth_kinds)).bool())
        theirs.update(
            torch.stack([kinds[found - 1], found], -1)[None],
            torch.stack([truth_kinds[truth - 1], truth], -1)[None],
        )
    expected = theirs.compute()[0, :3].numpy()
    assert metric.compute(ALL).pq == pytest.approx(expected, abs=1e-6)
