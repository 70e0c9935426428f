"""Worse versions of masks, made by rule, and how often they score above the good ones."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg_cli.metrics.mask_sensitivity import (
    MaskSensitivity,
    background_heavy,
    compared,
    half_covered,
)


def mask(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


def test_half_of_a_wide_mask_is_its_left_and_of_a_tall_one_its_top() -> None:
    wide = mask("....", "####", "##..")
    assert torch.equal(half_covered(wide), mask("....", "##..", "#..."))
    assert torch.equal(half_covered(wide.T), mask("....", "##..", "#...").T)


def test_pixels_of_one_column_are_taken_from_the_top() -> None:
    assert torch.equal(half_covered(mask("##", "##", "..")), mask("#.", "#.", ".."))
    assert torch.equal(half_covered(mask("###", "###")), mask("##.", "#.."))


def test_the_nearest_background_is_added_first() -> None:
    """Four neighbours at distance 1 of a pixel, then what reading order gives at the same distance.

    The mask is two pixels: of the six cells beside it the first two are taken.
    """
    found = background_heavy(mask("....", ".##.", "...."))
    assert torch.equal(found, mask(".##.", ".##.", "...."))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.05, 0.6), st.integers(0, 999))
def test_both_versions_have_an_iou_of_a_half(
    height: int, width: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    good = torch.rand(height, width, generator=generator) < share
    area = int(good.sum())
    assume(2 <= area <= good.numel() // 2)
    half, heavy = half_covered(good), background_heavy(good)
    assert int(half.sum()) == area // 2
    assert not (half & ~good).any()
    assert int(heavy.sum()) == 2 * area
    assert not (good & ~heavy).any()
    away = (good.nonzero()[:, None] - torch.ones_like(good).nonzero()[None]).float()
    nearest = away.norm(dim=-1).amin(0).view_as(good.float())  # plain distance to the mask
    if (~heavy).any():
        assert nearest[heavy].max() <= nearest[~heavy].min()


def test_masks_of_more_than_half_of_the_image_have_no_background_version() -> None:
    masks = torch.stack([mask("####", "#..."), mask("####", "...."), mask("###.", "....")])
    assert compared(masks).tolist() == [False, True, False]  # five pixels, four, three
    assert compared(masks[:0]).tolist() == []
    for wrong, area in ((masks[0], 5), (torch.zeros_like(masks[0]), 0)):
        with pytest.raises(ValueError, match=f"{area} of 8 pixels has no such version"):
            background_heavy(wrong)


def test_shares_by_hand() -> None:
    """Class 0: of three masks one, two and two are below a version; class 1 has a tie."""
    metric = MaskSensitivity(3)
    good = torch.tensor([0.5, 0.5, 0.5, 0.5])
    half = torch.tensor([0.6, 0.4, 0.4, 0.5])
    heavy = torch.tensor([0.6, 0.7, 0.1, 0.5])
    metric.update(good, half, heavy, torch.tensor([0, 0, 0, 1]))
    found = metric.compute({"all": (0, 1, 2), "base": (0,), "novel": (1,), "stuff": (2,)})
    assert found["base"] == {"half": 1 / 3, "background": 2 / 3, "either": 2 / 3, "masks": 3}
    assert found["all"] == {"half": 0.25, "background": 0.5, "either": 0.5, "masks": 4}
    assert found["novel"] == {"half": 0.0, "background": 0.0, "either": 0.0, "masks": 1}
    assert found["stuff"]["masks"] == 0
    assert torch.tensor(found["stuff"]["half"]).isnan()
