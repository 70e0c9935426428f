"""Which mask stands for which."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.mask_encoders.same_masks import stand_ins


def rows(*ends: int) -> torch.Tensor:
    """Masks of the first cells of ten."""
    return torch.arange(10) < torch.tensor(ends)[:, None, None]


def test_a_mask_is_stood_for_by_the_first_that_stands_for_itself() -> None:
    # 10 stands for 9 (IoU 0.9), not for 8 (0.8); 8 stands for 7 (0.875); 9, which does not stand
    # for itself, does not stand for the second 8 either
    assert stand_ins(rows(10, 9, 8, 7, 8), 0.85).tolist() == [0, 0, 2, 2, 2]


def test_only_a_higher_overlap_counts_and_empty_masks_are_alone() -> None:
    assert stand_ins(rows(10, 5, 0, 0), 0.5).tolist() == [0, 1, 2, 3]
    assert stand_ins(rows(10, 6), 0.5).tolist() == [0, 0]
    assert stand_ins(rows(), 0.5).tolist() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10), max_size=8), st.floats(0, 1))
def test_those_that_stand_are_not_alike_and_stand_for_all_others(
    ends: list[int], iou: float
) -> None:
    masks = rows(*ends)
    result = stand_ins(masks, iou).tolist()
    for index, standing in enumerate(result):
        assert result[standing] == standing <= index
        for other in set(result) - {standing}:
            shared = (masks[standing] & masks[other]).sum()
            assert shared <= iou * (masks[standing] | masks[other]).sum()
