"""Upsampling in tiles beside two calls of PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import inference as plain

from ovseg_cli import upsampling
from ovseg_cli.structures import Frame
from ovseg_cli.upsampling import probability_tiles, tiles, upsample

SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_masks_are_upsampled_to_the_padded_size_cropped_and_resized(
    count: int,
    grid: tuple[int, int],
    padded: tuple[int, int],
    cropped: tuple[int, int],
    original: tuple[int, int],
    align_corners: bool,
) -> None:
    resized = (min(padded[0], cropped[0]), min(padded[1], cropped[1]))
    frame = Frame(padded, resized, original, align_corners)
    logits = torch.randn(count, *grid, generator=torch.Generator().manual_seed(0))
    expected = plain.upsampled(logits, frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "CPU_TILE", 50)
        patch.setattr(upsampling, "SMALLEST_SIDE", 4)
        found = upsample(logits, frame)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_image_of_the_masks_own_size_keeps_every_bit() -> None:
    logits = torch.randn(3, 70, 90)
    same = Frame((70, 90), (70, 90), (70, 90))
    assert torch.equal(upsample(logits, same), logits)


@pytest.mark.parametrize("count", [1, 5, 2000])
def test_tiles_cover_every_pixel_once_and_stay_small(count: int) -> None:
    covered = torch.zeros(101, 211, dtype=torch.int32)
    for tile in tiles(torch.zeros(count, 4, 5), Frame((16, 20), (16, 20), (101, 211))):
        covered[tile.region] += 1
        assert tile.logits.shape[1:] == covered[tile.region].shape
        assert tile.logits.numel() <= max(upsampling.CPU_TILE, count * 32 * 32)
    assert (covered == 1).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_probabilities_of_the_resized_image_are_resized_in_their_turn(
    count: int,
    grid: tuple[int, int],
    padded: tuple[int, int],
    cropped: tuple[int, int],
    original: tuple[int, int],
    align_corners: bool,
) -> None:
    resized = (min(padded[0], cropped[0]), min(padded[1], cropped[1]))
    logits = torch.randn(count, *grid, generator=torch.Generator().manual_seed(0))
    at_resized = plain.upsampled(logits, Frame(padded, resized, resized, align_corners)).sigmoid()
    found = torch.full((count, *original), -1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "CPU_TILE", 50)
        patch.setattr(upsampling, "SMALLEST_SIDE", 4)
        frame = Frame(padded, resized, original, align_corners)
        for region, probabilities in probability_tiles(logits, frame):
            found[:, *region] = probabilities
    expected = plain.upsampled(at_resized, Frame(resized, resized, original))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
