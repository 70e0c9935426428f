"""Boxes cut out many at once, beside `F.interpolate` of each box alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ovseg_cli.mask_encoders.crop_cutting import bicubic_weights, cut

IMAGE = torch.rand(3, 19, 23, generator=torch.Generator().manual_seed(0)) * 255
MASKS = torch.rand(6, 19, 23, generator=torch.Generator().manual_seed(1)) > 0.5
AROUND = torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1)


def spans(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True).map(sorted)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(spans(23), spans(19)), max_size=6), st.integers(1, 30), st.booleans())
def test_every_box_is_what_it_would_be_alone(
    found: list[tuple[list[int], list[int]]], side: int, filled: bool
) -> None:
    boxes = torch.tensor([[x[0], y[0], x[1], y[1]] for x, y in found]).reshape(-1, 4).long()
    crops = cut(IMAGE, MASKS[: len(boxes)], boxes, side=side, around=AROUND if filled else None)
    assert crops.pixels.shape == (len(boxes), 3, side, side)
    for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
        place = (..., slice(top, bottom), slice(left, right))
        mask, pixels = MASKS[index][place], IMAGE[place]
        shown = torch.where(mask, pixels, AROUND) if filled else pixels
        expected = F.interpolate(shown[None], (side, side), mode="bicubic", align_corners=False)
        torch.testing.assert_close(crops.pixels[index], expected[0], atol=5e-3, rtol=1e-5)
        inside = F.interpolate(mask[None, None].float(), (side, side), mode="nearest")[0, 0] > 0
        assert torch.equal(crops.masks[index], inside)


def test_weights_of_every_pixel_sum_to_one_inside_the_span() -> None:
    weights = bicubic_weights(torch.tensor([3, 0]), torch.tensor([9, 1]), 14, 12)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 14))
    assert not weights[0, :, :3].any()
    assert not weights[0, :, 9:].any()
    torch.testing.assert_close(weights[1, :, 0], torch.ones(14))
