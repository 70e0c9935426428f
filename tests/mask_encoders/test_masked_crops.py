"""Masked crops: what CLIP is shown of each mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_clip import tiny_clip
from tiny_towers import tiny_resnet
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops, boxes_of
from ovseg_cli.structures import Frame, FramedImage, Proposals

CLIP = tiny_clip()
FRAME = Frame(padded=(64, 64), resized=(48, 56), original=(96, 112))
WAYS = [(region, fill) for region in ("image", "box") for fill in ("black", "mean")]


@pytest.fixture
def framed() -> FramedImage:
    pixels = torch.zeros(3, 64, 64)
    pixels[:, :48, :56] = torch.rand(3, 48, 56, generator=torch.Generator().manual_seed(1)) * 255
    return FramedImage(pixels, FRAME)


def proposals(masks: Tensor) -> Proposals:
    return Proposals(masks.float() * 2 - 1, FRAME, torch.ones(len(masks)))


def some_masks() -> Tensor:
    """Five masks at the size of the padded image, the third of them empty."""
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[0, 5:20, 7:30], masks[1, 30:48, :20], masks[3], masks[4, 47, 55] = (True,) * 4
    return masks


def encoded(framed: FramedImage, masks: Tensor, **options: Any) -> Tensor:
    return MaskedCrops(CLIP, **options).encode(framed, proposals(masks)).embeddings


@pytest.mark.parametrize(("region", "fill"), WAYS)
def test_a_mask_of_the_whole_image_is_clips_own_embedding_of_it(
    framed: FramedImage, region: str, fill: str
) -> None:
    expected = CLIP.encode_image(framed.pixels[None, :, :48, :56])
    found = encoded(framed, torch.ones(1, 16, 16), region=region, fill=fill, expand=1.5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("region", "fill"), WAYS)
def test_pixels_outside_the_mask_do_not_matter(framed: FramedImage, region: str, fill: str) -> None:
    masks = some_masks()[:1]
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    changed = replace(framed, pixels=torch.where(masks[0], framed.pixels, noise))
    first = encoded(framed, masks, region=region, fill=fill, expand=1.3)
    assert torch.equal(first, encoded(changed, masks, region=region, fill=fill, expand=1.3))
    inside = replace(framed, pixels=torch.where(masks[0], noise, framed.pixels))
    assert not torch.allclose(first, encoded(inside, masks, region=region, fill=fill, expand=1.3))


@pytest.mark.parametrize("region", ["image", "box"])
def test_neither_the_order_of_masks_nor_the_batch_size_matters(
    framed: FramedImage, region: str
) -> None:
    masks, order = some_masks(), torch.tensor([4, 2, 0, 3, 1])
    together = encoded(framed, masks, region=region)
    alone = encoded(framed, masks[order], region=region, batch_size=1)
    torch.testing.assert_close(alone, together[order], atol=1e-5, rtol=1e-5)


def test_an_empty_mask_is_invalid_and_zero(framed: FramedImage) -> None:
    given_masks = proposals(some_masks())
    result = MaskedCrops(CLIP).encode(framed, given_masks)
    assert result.valid.tolist() == [True, True, False, True, True]
    assert torch.equal(result.embeddings[2], torch.zeros(16))
    assert result.embeddings[result.valid].norm(dim=1).min() > 0
    assert result.mask_logits is given_masks.mask_logits


def test_a_mask_of_padding_alone_is_empty(framed: FramedImage) -> None:
    masks = torch.zeros(1, 64, 64)
    masks[:, 48:] = 1
    masks[:, :, 56:] = 1
    assert not MaskedCrops(CLIP).encode(framed, proposals(masks)).valid.any()


def test_no_masks_give_no_rows(framed: FramedImage) -> None:
    result = MaskedCrops(CLIP).encode(framed, proposals(torch.zeros(0, 8, 8)))
    assert result.embeddings.shape == (0, 16)
    assert result.valid.shape == (0,)


def test_the_mean_colour_is_zero_once_it_is_normalised(framed: FramedImage) -> None:
    crops, _ = MaskedCrops(CLIP, fill="mean").crops(framed.pixels, some_masks()[3:] & False)
    torch.testing.assert_close(CLIP.preprocess(crops), torch.zeros(2, 3, 32, 32), atol=1e-5, rtol=0)


def test_a_black_filling_is_black(framed: FramedImage) -> None:
    crops, _ = MaskedCrops(CLIP).crops(framed.pixels, some_masks()[3:] & False)
    assert torch.equal(crops, torch.zeros(2, 3, 32, 32))


def test_a_box_of_clips_size_is_shown_as_it_is(framed: FramedImage) -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 10:42, 12:44] = True
    crops, _ = MaskedCrops(CLIP, region="box").crops(framed.pixels, masks)
    torch.testing.assert_close(crops[0], framed.pixels[:, 10:42, 12:44])


def test_an_expanded_box_shows_filling_on_all_sides_but_nothing_beyond_the_image(
    framed: FramedImage,
) -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 24:40, 24:40], masks[1, :16, 24:40] = True, True
    inside, edge = MaskedCrops(CLIP, region="box", expand=2.0).crops(framed.pixels, masks).pixels
    torch.testing.assert_close(inside[:, 8:24, 8:24], framed.pixels[:, 24:40, 24:40])
    for strip in (inside[:, :7], inside[:, 25:], inside[..., :7], inside[..., 25:]):
        assert strip.abs().max() == 0
    assert edge[:, 0, 8:24].abs().sum() > 0  # 24 rows of pixels, the mask's at the top


@pytest.mark.parametrize(("threshold", "inside"), [(0.61, True), (0.63, False)])
def test_only_probabilities_above_the_threshold_are_inside(
    framed: FramedImage, threshold: float, inside: bool
) -> None:
    logits = torch.full((1, 64, 64), 0.5)  # a probability of 0.622
    crops = MaskedCrops(CLIP, threshold=threshold)
    assert crops.encode(framed, Proposals(logits, FRAME, torch.ones(1))).valid.all() == inside


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(0, 11)] * 2).map(sorted),
    st.tuples(*[st.integers(0, 8)] * 2).map(sorted),
)
def test_the_box_of_a_rectangle_is_the_rectangle(columns: list[int], rows: list[int]) -> None:
    (left, right), (top, bottom) = columns, rows
    mask = torch.zeros(1, 9, 12, dtype=torch.bool)
    mask[:, top : bottom + 1, left : right + 1] = True
    assert boxes_of(mask).tolist() == [[left, top, right + 1, bottom + 1]]


def test_nothing_of_clip_can_be_trained() -> None:
    assert not any(parameter.requires_grad for parameter in MaskedCrops(tiny_clip()).parameters())


@pytest.mark.parametrize("prompts", [0, 2])
def test_crops_of_a_smaller_side_are_cut_and_prompted_at_it(
    framed: FramedImage, prompts: int
) -> None:
    tuned: Any = "mpt" if prompts else "none"
    crops = MaskedCrops(CLIP, region="box", side=16, tuned=tuned, prompts=prompts)
    shown = crops.crops(framed.pixels[:, :48, :56], some_masks()[:1, :48, :56])
    assert shown.pixels.shape == (1, 3, 16, 16)
    if crops.mask_prompts is not None:
        assert crops.mask_prompts().shape == (2, 4, 32)
    found = crops.encode(framed, proposals(some_masks()))
    assert found.valid.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(("side", "clip"), [(12, CLIP), (40, CLIP), (16, tiny_resnet())])
def test_a_side_that_the_tower_does_not_take_is_refused(side: int, clip: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"\[mask_encoder\] side: {side}"):
        MaskedCrops(clip, side=side)


def test_without_filling_the_image_is_seen_around_the_mask(framed: FramedImage) -> None:
    mask = torch.eye(32, dtype=torch.bool)[None]
    image = framed.pixels[:, :32, :32]
    shown = MaskedCrops(CLIP, region="box", fill="none").crops(image, mask)
    torch.testing.assert_close(shown.pixels[0], image)
    assert torch.equal(shown.masks, mask)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("prompts", [0, 2])
def test_few_valid_proposals_are_like_many(framed: FramedImage, count: int, prompts: int) -> None:
    tuned = "mpt" if prompts else "none"
    crops = MaskedCrops(CLIP, region="box", fill="mean", tuned=tuned, prompts=prompts)
    masks = some_masks()[2 - count : 3]  # the last one is empty
    found, every = (crops.encode(framed, proposals(some)) for some in (masks, some_masks()))
    assert found.valid.tolist() == [True] * count + [False]
    torch.testing.assert_close(found.embeddings, every.embeddings[2 - count : 3])


def test_masks_of_low_scores_are_not_looked_at(framed: FramedImage) -> None:
    given_masks = replace(proposals(some_masks()), scores=torch.tensor([0.9, 0.1, 0.9, 0.3, 0.2]))
    found = MaskedCrops(CLIP, least_score=0.3).encode(framed, given_masks)
    assert found.valid.tolist() == [True, False, False, True, False]
    every = MaskedCrops(CLIP).encode(framed, given_masks).embeddings
    torch.testing.assert_close(found.embeddings[found.valid], every[found.valid])


def test_masks_that_are_nearly_the_same_share_an_embedding(framed: FramedImage) -> None:
    masks = some_masks()[[0, 1, 0, 2]].clone()
    masks[2, 19] = False  # 14 of 15 rows
    alone = MaskedCrops(CLIP).encode(framed, proposals(masks))
    shared = MaskedCrops(CLIP, same_above=0.9).encode(framed, proposals(masks))
    assert shared.valid.tolist() == alone.valid.tolist() == [True, True, True, False]
    assert torch.equal(shared.embeddings[2], shared.embeddings[0])
    assert not torch.allclose(alone.embeddings[2], alone.embeddings[0])
    torch.testing.assert_close(shared.embeddings[:2], alone.embeddings[:2])
    apart = MaskedCrops(CLIP, same_above=0.94).encode(framed, proposals(masks))
    torch.testing.assert_close(apart.embeddings, alone.embeddings)


def test_of_masks_that_are_nearly_the_same_the_best_one_is_looked_at(framed: FramedImage) -> None:
    masks = some_masks()[[0, 0, 0]].clone()
    masks[0, 19], masks[2, 18:] = False, False
    ranked = replace(proposals(masks), scores=torch.tensor([0.2, 0.9, 0.5]))
    alone = MaskedCrops(CLIP).encode(framed, ranked).embeddings
    shared = MaskedCrops(CLIP, same_above=0.8).encode(framed, ranked).embeddings
    torch.testing.assert_close(shared, alone[[1, 1, 1]])


def test_the_three_published_ways_show_mask_box_or_both(framed: FramedImage) -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 16:48, 16:48] = torch.eye(32, dtype=torch.bool)  # its box is of CLIP's size
    image, mean = framed.pixels, CLIP.mean * 255
    shown = {
        way: MaskedCrops(CLIP, region=way[0], fill=way[1]).crops(image, masks).pixels[0]
        for way in (("image", "mean"), ("box", "none"), ("box", "mean"))
    }
    box, inside = image[:, 16:48, 16:48], masks[0, 16:48, 16:48]
    torch.testing.assert_close(shown["box", "none"], box)
    torch.testing.assert_close(shown["box", "mean"], torch.where(inside, box, mean))
    whole = F.interpolate(torch.where(masks, image, mean)[None], 32, mode="bicubic")[0]
    torch.testing.assert_close(shown["image", "mean"], whole, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": "none"}, "region image with fill none"),
        ({"prompts": 3}, "prompts: 3 that nothing trains, as tuned is none"),
        ({"tuned": "joint"}, "joint trains mask prompts, and prompts is 0"),
    ],
)
def test_options_that_contradict_one_another_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        MaskedCrops(CLIP, **options)


def test_prompts_deeper_than_the_tower_are_refused() -> None:
    with pytest.raises(CheckpointError, match="prompts: 4 is deeper than this CLIP's 3 layers"):
        MaskedCrops(CLIP, tuned="mpt", prompts=4)


@pytest.mark.parametrize(
    ("tuned", "trained"), [("mpt", {"mask_prompts"}), ("finetune", {"visual"}), ("joint", None)]
)
def test_what_is_tuned_is_trained_kept_and_taken_back(tuned: Any, trained: set[str] | None) -> None:
    clip, prompts = tiny_clip(), 0 if tuned == "finetune" else 2
    crops = MaskedCrops(clip, tuned=tuned, prompts=prompts, seed=1).train()
    learning = {name.split(".")[0] for name, p in crops.named_parameters() if p.requires_grad}
    assert learning == (trained or {"mask_prompts", "visual"})
    pixels, masks = torch.rand(2, 3, 32, 32) * 255, torch.zeros(2, 32, 32, dtype=torch.bool)
    crops(pixels, masks).square().sum().backward()
    for name, parameter in crops.named_parameters():
        assert (parameter.grad is not None) == (name.split(".")[0] in learning), name
        if parameter.requires_grad:
            parameter.data += 0.1
    again = MaskedCrops(clip, tuned=tuned, prompts=prompts, seed=2)
    again.load_tuned_tensors(crops.tuned_tensors(), source="the artifact")
    assert torch.equal(again(pixels, masks), crops(pixels, masks))
    assert {name.split(".")[0] for name in crops.tuned_tensors()} == learning


def test_prompts_on_a_tower_that_was_tuned_before_keep_it_frozen() -> None:
    first = MaskedCrops(CLIP, tuned="finetune")
    assert first.visual is not None
    first.visual.proj.data += 1
    second = MaskedCrops(CLIP, tuned="mpt", prompts=1)
    second.load_tower(first.visual.state_dict(), source="clip/ovseg-finetune")
    assert {n for n, p in second.named_parameters() if p.requires_grad} == {"mask_prompts.prompts"}
    third = MaskedCrops(CLIP, tuned="mpt", prompts=1, seed=5)
    third.load_tuned_tensors(second.tuned_tensors(), source="clip/ovseg-mpt")
    pixels, masks = torch.rand(1, 3, 32, 32) * 255, torch.ones(1, 32, 32, dtype=torch.bool)
    assert torch.equal(third(pixels, masks), second(pixels, masks))
    torch.testing.assert_close(third(pixels, masks), first(pixels, masks))


def test_a_tower_that_is_tuned_behind_prompts_leaves_them_as_they_are() -> None:
    crops = MaskedCrops(CLIP, tuned="finetune", prompts=2)
    assert crops.mask_prompts is not None
    learning = {name for name, p in crops.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"visual"}
    assert {name.split(".")[0] for name in crops.tuned_tensors()} == {"visual", "mask_prompts"}


def test_tensors_of_other_options_are_refused() -> None:
    crops = MaskedCrops(CLIP, tuned="mpt", prompts=2)
    with pytest.raises(CheckpointError, match="tuned for another CLIP or with other options"):
        crops.load_tuned_tensors({"mask_prompts.prompts": torch.zeros(3, 16, 32)}, source="a file")
