"""The quality of a teacher's masks, by hand."""

import pytest
import torch

from ovseg_cli.metrics.pseudo_mask_quality import PseudoMaskQuality


def columns(*ranges: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(ranges), 4, 16, dtype=torch.bool)
    for mask, (first, last) in zip(masks, ranges, strict=True):
        mask[:, first:last] = True
    return masks


def test_precision_and_coverage_of_things_and_stuff():
    metric = PseudoMaskQuality()
    added = columns((0, 4), (4, 8), (12, 14), (14, 16))
    unseen = columns((0, 4), (4, 16))  # a thing, found; stuff, of which an added mask has a third
    metric.update(added, unseen, torch.tensor([True, False]))
    metric.update(columns((0, 5)), columns((0, 10)), torch.tensor([False]))  # IoU 1/2 counts
    assert metric.compute() == pytest.approx(
        {
            "images": 2,
            "per_image": 5 / 2,
            "precision": 2 / 5,
            "coverage": 2 / 3,
            "precision_things": 1 / 5,
            "coverage_things": 1.0,
            "precision_stuff": 1 / 5,
            "coverage_stuff": 1 / 2,
        }
    )


def test_two_masks_on_one_object_are_both_right_and_cover_it_once():
    metric = PseudoMaskQuality()
    metric.update(columns((0, 4), (0, 5)), columns((0, 4)), torch.tensor([True]))
    figures = metric.compute()
    assert (figures["precision"], figures["coverage"]) == (1, 1)
    assert "coverage_stuff" not in figures


def test_an_image_without_added_masks_counts_its_objects():
    metric = PseudoMaskQuality()
    metric.update(columns(), columns((0, 4)), torch.tensor([True]))
    assert metric.compute()["coverage"] == 0
    assert metric.compute()["precision"] == 0


def test_without_unseen_masks_there_is_only_the_number():
    metric = PseudoMaskQuality()
    assert metric.compute() == {}
    metric.update(columns((0, 4), (8, 9)), columns(), torch.zeros(0, dtype=torch.bool))
    assert metric.compute() == {"images": 1, "per_image": 2}
