"""Recall of class-agnostic masks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.metrics.proposal_recall import ProposalRecall, mask_iou

GROUPS = {"all": (0, 1), "base": (0,), "novel": (1,)}


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 4), st.integers(0, 4))
def test_mask_iou_equals_the_loop(seed: int, first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(first, 5, 4, generator=generator) > 0.6
    b = torch.rand(second, 5, 4, generator=generator) > 0.6
    found = mask_iou(a, b)
    assert found.shape == (first, second)
    for i in range(first):
        for j in range(second):
            union = (a[i] | b[j]).sum()
            expected = (a[i] & b[j]).sum() / union if union else torch.tensor(0.0)
            assert found[i, j] == pytest.approx(float(expected))


def test_recall_counts_masks_and_leaves_crowd_out() -> None:
    masks = torch.zeros(4, 2, 12, dtype=torch.bool)
    masks[0, :, :3] = masks[1, :, 3:6] = masks[2, :, 6:9] = masks[3, :, 9:] = True
    proposals = masks[:2].clone()
    proposals[1, :, 6:8] = True  # IoU 3/5 with the second
    metric = ProposalRecall(2)
    metric.update(
        proposals,
        masks,
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([False, False, False, True]),
    )
    result = metric.compute(GROUPS)
    assert result.annotated.tolist() == [2, 1]
    assert result.groups["base"]["recall50"] == 1.0
    assert result.groups["base"]["recall75"] == 0.5
    assert result.groups["base"]["mean"] == pytest.approx((2 * 3 + 7) / 20)  # 0.5 to 0.6 both
    assert result.groups["novel"]["recall50"] == 0.0
    assert result.groups["all"]["recall50"] == pytest.approx(2 / 3)


def test_images_without_proposals_or_masks_are_fine() -> None:
    metric = ProposalRecall(2)
    none, label = torch.zeros(0, 2, 2, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
    metric.update(none, none, label, label.bool())
    assert math.isnan(metric.compute(GROUPS).groups["all"]["recall50"])
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    metric.update(none, mask, torch.tensor([1]), torch.tensor([False]))
    assert metric.compute(GROUPS).groups["novel"]["recall50"] == 0.0


def test_masks_of_many_pixels_are_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(count, 7, 9, generator=generator) > 0.5 for count in (3, 4))
    whole = mask_iou(a, b)
    monkeypatch.setattr("ovseg_cli.metrics.proposal_recall.PIXELS", 5)
    assert torch.equal(mask_iou(a, b), whole)
