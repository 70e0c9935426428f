"""Crops around annotated segments, and CLIP's names for them."""

import pytest
import torch
from tiny_clip import tiny_clip

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
from ovseg_cli.clip.pair_encoder import encode_windows
from ovseg_cli.errors import RecipeError
from ovseg_cli.stages.crops import crop_around, crop_side_for, name_crops
from ovseg_cli.structures import TextEmbeddings


@pytest.mark.parametrize("corner", [(0, 0), (10, 5), (24, 32)])
def test_a_things_crop_is_a_square_inside_the_image_that_holds_it(corner: tuple[int, int]) -> None:
    image = torch.zeros(3, 32, 40, dtype=torch.uint8)
    mask = torch.zeros(32, 40, dtype=torch.bool)
    mask[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = True
    image[:, mask] = 255
    crop = crop_around(image, mask, is_thing=True, scale=2.0, side=16)
    assert crop.shape == (3, 16, 16)
    assert crop[0].sum() == 64 * 255  # the whole thing, at its own size


def test_a_crop_larger_than_the_image_is_the_image() -> None:
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    mask = torch.ones(20, 20, dtype=torch.bool)
    crop = crop_around(image, mask, is_thing=True, scale=3.0, side=20)
    assert torch.equal(crop, image.float())


def test_the_crop_of_stuff_lies_where_it_is_deepest() -> None:
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[15:17] = True
    mask[8:24, 40:56] = True
    image[:, mask] = 255
    crop = crop_around(image, mask, is_thing=False, scale=1.0, side=8)
    assert crop.min() == 255


def test_crops_are_named_by_the_nearest_text() -> None:
    clip = tiny_clip()
    crops = torch.randint(0, 256, (3, 3, 32, 32)).float()
    embeddings = clip.encode_image(crops)
    background = -embeddings.mean(0, keepdim=True)
    texts = TextEmbeddings(torch.cat([embeddings, background]), torch.arange(4), True)
    assert name_crops(clip, texts, crops).tolist() == [0, 1, 2]


def test_a_window_of_the_whole_square_is_the_square() -> None:
    clip = tiny_clip()
    crops = torch.randint(0, 256, (4, 3, 32, 32)).float()
    normalised = (crops / 255 - clip.mean) / clip.std
    with torch.no_grad():
        windows = encode_windows(clip.model, normalised, (0, 0))
    torch.testing.assert_close(windows, clip.encode_image(crops), atol=1e-4, rtol=1e-4)


def test_a_side_that_does_not_fit_the_tower_is_refused() -> None:
    clip = tiny_clip()
    assert crop_side_for(clip, None) == 32
    assert crop_side_for(clip, 16) == 16
    for side in (12, 40, 0):
        with pytest.raises(RecipeError, match=f"crop_side: {side} is no multiple of the patch"):
            crop_side_for(clip, side)
    texts = TextEmbeddings(torch.randn(2, 16), torch.arange(2))
    assert name_crops(clip, texts, torch.rand(2, 3, 16, 16) * 255).shape == (2,)


def test_a_resnet_sees_crops_at_its_own_size() -> None:
    vision = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 8, "image_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    clip = ClipEncoder(open_clip.CLIP(16, vision, text).eval())
    assert crop_side_for(clip, None) == crop_side_for(clip, 32) == 32
    with pytest.raises(RecipeError, match=r"crop_side: 16: a ResNet's CLIP .* own 32 pixels alone"):
        crop_side_for(clip, 16)
    texts = TextEmbeddings(torch.randn(2, 16), torch.arange(2))
    assert name_crops(clip, texts, torch.rand(3, 3, 32, 32)).shape == (3,)
