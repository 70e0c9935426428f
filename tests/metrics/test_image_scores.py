"""Figures of one image, worked out by hand."""

import pytest
import torch

from ovseg_cli.metrics.image_scores import image_iou, image_quality, matched_segments

TARGET = torch.tensor(
    [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 0, 0],
    ]
)
FOUND = torch.tensor(
    [
        [1, 1, 1, 1],
        [1, 1, 2, 2],
        [3, 3, 2, 2],
        [3, 3, 3, 3],
    ]
)
NO_CROWDS = torch.tensor([False, False, False])


def test_segments_match_by_outline_whatever_they_are_called() -> None:
    """IoU 6/8; 4/4, where void does not count; of the third one 2/4, which is not above a half."""
    assert matched_segments(FOUND, TARGET, ~NO_CROWDS) == [(0, 0), (1, 2)]
    assert matched_segments(FOUND, TARGET, torch.tensor([False, True, True])) == [(1, 2)]


def test_nothing_matches_where_nothing_is_found_or_annotated() -> None:
    nothing = torch.zeros_like(FOUND)
    assert matched_segments(nothing, TARGET, ~NO_CROWDS) == []
    assert matched_segments(FOUND, nothing, torch.zeros(0, dtype=torch.bool)) == []


def test_the_quality_of_an_image_is_that_of_all_its_segments() -> None:
    """One match of IoU 6/8, two segments too many, two missed: 0.75 / (1 + 1 + 1)."""
    target_labels, labels = torch.tensor([5, 6, 7]), torch.tensor([5, 7, 0])
    quality = image_quality(FOUND, labels, TARGET, target_labels, NO_CROWDS)
    assert quality == pytest.approx(0.25)


def test_the_quality_is_one_where_all_is_right_and_none_where_nothing_counts() -> None:
    labels = torch.tensor([0, 0, 1])
    assert image_quality(TARGET, labels, TARGET, labels, NO_CROWDS) == 1.0
    nothing, none = torch.zeros_like(TARGET), torch.zeros(0, dtype=torch.int64)
    assert image_quality(nothing, none, nothing, none, none.bool()) is None


def test_the_iou_of_an_image_is_over_the_classes_that_are_there() -> None:
    """Class 0 has 1/3, class 2, which is found alone, 0; void pixels do not count."""
    target = torch.tensor([[0, 0, 0, -1]])
    assert image_iou(torch.tensor([[0, 2, -1, 2]]), target) == pytest.approx((1 / 3 + 0) / 2)
    assert image_iou(torch.tensor([[0, 0, 0, 5]]), target) == 1.0
    assert image_iou(torch.tensor([[0, 0, 0, 5]]), torch.full((1, 4), -1)) is None
