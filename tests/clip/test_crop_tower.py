"""Crops through the image tower, with and without mask prompts."""

import pytest
import torch
from tiny_clip import tiny_clip
from tiny_towers import tiny_resnet

from ovseg_cli.clip.crop_tower import check_prompts_fit, encode_crops, seen_patches
from ovseg_cli.clip.pair_encoder import encode_windows
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.mask_prompts import MaskPrompts

CLIP = tiny_clip()
CROPS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PROMPTS = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))


def test_without_prompts_it_is_the_tower() -> None:
    torch.testing.assert_close(encode_crops(CLIP.visual, CROPS), CLIP.model.visual(CROPS))


def test_prompts_change_nothing_where_every_patch_is_seen() -> None:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, ::8, ::8] = True
    found = encode_crops(CLIP.visual, CROPS, masks, PROMPTS)
    torch.testing.assert_close(found, CLIP.model.visual(CROPS))


def test_a_smaller_crop_lies_in_the_middle() -> None:
    crops, corner = CROPS[:, :, :16, :16], (1, 1)
    expected = encode_windows(CLIP.model, crops, corner)
    torch.testing.assert_close(encode_crops(CLIP.visual, crops), expected)


@pytest.mark.parametrize("depth", [0, 1])
def test_prompts_of_every_depth_are_read_where_nothing_is_seen(depth: int) -> None:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, :16] = True  # the first eight patches
    prompts = PROMPTS.clone().requires_grad_()
    encode_crops(CLIP.visual, CROPS, masks, prompts).square().sum().backward()
    assert prompts.grad is not None
    assert not prompts.grad[depth, :8].any()
    assert prompts.grad[depth, 8:].any(1).all()


def test_what_is_blank_does_not_matter() -> None:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 3, 20] = True  # the third patch
    changed = CROPS.clone()
    changed[:, :, 8:] = 0
    first, second = (encode_crops(CLIP.visual, c, masks, PROMPTS) for c in (CROPS, changed))
    torch.testing.assert_close(first, second)


def test_a_patch_is_seen_by_one_pixel() -> None:
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 7, 8] = masks[0, 31, 31] = True
    assert seen_patches(masks, 8)[0].nonzero()[:, 0].tolist() == [1, 15]
    assert seen_patches(masks[:0], 8).shape == (0, 16)


def test_no_crops_give_no_rows() -> None:
    masks = torch.zeros(0, 32, 32, dtype=torch.bool)
    assert encode_crops(CLIP.visual, CROPS[:0], masks, PROMPTS).shape == (0, 16)


def test_prompts_begin_small_and_are_the_seeds() -> None:
    first, again = (MaskPrompts(depth=3, patches=256, width=1024, seed=3) for _ in range(2))
    assert first.prompts.numel() == 786_432  # ViT-L/14
    assert torch.equal(first(), again())
    assert first.prompts.std().item() == pytest.approx(0.02, rel=0.01)
    assert MaskPrompts.of(CLIP, depth=2).prompts.shape == (2, 16, 32)


def test_a_tower_without_plain_patches_takes_crops_but_no_prompts() -> None:
    visual = tiny_resnet().model.visual
    crops = torch.rand(2, 3, visual.image_size, visual.image_size)
    torch.testing.assert_close(encode_crops(visual, crops), visual(crops))
    check_prompts_fit(visual, 0)
    with pytest.raises(CheckpointError, match="is a ModifiedResNet of another kind; set mask_enc"):
        check_prompts_fit(visual, 1)
