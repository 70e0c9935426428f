"""Labels for proposals and the weighted cross-entropy, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg_cli.losses import classification
from ovseg_cli.losses.classification import (
    IGNORED,
    assign_labels,
    pairwise_overlap,
    weighted_cross_entropy,
)


def bar(start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(1, 100, dtype=torch.bool)
    mask[:, start:stop] = True
    return mask


def assign(masks: list[torch.Tensor], **options: object) -> tuple[list[int], list[int]]:
    gt_masks = torch.stack([bar(0, 60), bar(60, 100)])
    result = assign_labels(
        torch.stack(masks), gt_masks, torch.tensor([7, 3]), background=9, **options
    )
    return result.labels.tolist(), result.gt.tolist()


def test_half_overlap_is_positive_by_dice_and_negative_by_iou() -> None:
    half = bar(20, 80)  # IoU 40 / 80, Dice 80 / 120 with the first
    assert assign([half]) == ([7], [0])
    assert assign([half], overlap="iou") == ([9], [-1])


def test_many_proposals_take_one_mask_and_the_rest_are_background() -> None:
    masks = [bar(0, 60), bar(0, 55), bar(62, 99), bar(50, 52)]
    assert assign(masks) == ([7, 7, 3, 9], [0, 0, 1, -1])


def test_an_image_without_annotations_is_all_background() -> None:
    empty = torch.zeros(0, 1, 100, dtype=torch.bool)
    labels = torch.zeros(0, dtype=torch.int64)
    result = assign_labels(torch.stack([bar(0, 5)] * 3), empty, labels, background=4)
    assert result.labels.tolist() == [4, 4, 4]
    assert result.gt.tolist() == [-1, -1, -1]


def test_two_empty_masks_overlap_fully_by_the_smoothing() -> None:
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert pairwise_overlap(empty, empty).item() == 1
    assert pairwise_overlap(empty, empty, "iou").item() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from(["dice", "iou"]))
def test_overlap_is_symmetric_and_one_with_itself(seed: int, kind: str) -> None:
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(seed)) > 0.5
    overlap = pairwise_overlap(masks, masks, kind)
    torch.testing.assert_close(overlap, overlap.T)
    torch.testing.assert_close(overlap.diagonal(), torch.ones(4))
    assert ((overlap > 0) & (overlap <= 1)).all()


def test_the_loss_is_a_mean_with_a_tenth_for_background() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.log(2)]])
    loss = weighted_cross_entropy(logits, torch.tensor([0, 2]))
    expected = (math.log(3) + 0.1 * math.log(2)) / 1.1
    assert loss.item() == pytest.approx(expected)


def test_padding_counts_for_nothing() -> None:
    logits = torch.randn(1, 3, 4)
    padded = torch.cat([logits, torch.full((1, 2, 4), 5.0)], dim=1)
    labels = torch.tensor([[0, 1, 3]])
    more = torch.tensor([[0, 1, 3, IGNORED, IGNORED]])
    torch.testing.assert_close(
        weighted_cross_entropy(padded, more), weighted_cross_entropy(logits, labels)
    )


def test_nothing_but_padding_is_no_loss() -> None:
    assert weighted_cross_entropy(torch.zeros(1, 2, 3), torch.full((1, 2), IGNORED)).item() == 0


def test_the_normaliser_is_a_sum_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 2, 2, 1, 2, 0])
    whole = weighted_cross_entropy(logits, labels)
    normaliser = 3 + 3 * 0.1
    monkeypatch.setattr(classification, "world_size", lambda: 2)
    monkeypatch.setattr(classification, "global_sum", lambda _: torch.tensor(normaliser))
    parts = [weighted_cross_entropy(logits[part], labels[part]) for part in ([0, 1], [2, 3, 4, 5])]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_the_released_mean_is_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 2, 1])
    alone = weighted_cross_entropy(logits, labels)
    monkeypatch.setattr(classification, "world_size", lambda: 2)
    monkeypatch.setattr(classification, "global_sum", lambda value: value * 7)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, per_process_mean=True), alone)
