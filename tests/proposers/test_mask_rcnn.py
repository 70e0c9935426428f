"""Mask R-CNN on images of a few rectangles, and its parts on cases worked by hand."""

import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from untrained_run import CLIP, untrained_run

from ovseg_cli.checkpoints.proposer_parts import proposer_of
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers import (
    FREE_OPTIONS,
    PROPOSERS,
    MaskRcnn,
    Proposer,
    TrainableProposer,
)
from ovseg_cli.proposers.mask_rcnn import AnnotatedMasks
from ovseg_cli.proposers.mask_rcnn.boxes import boxes_of, match, sample
from ovseg_cli.proposers.mask_rcnn.heads import mask_targets, pasted, pool
from ovseg_cli.proposers.mask_rcnn.regions import Regions
from ovseg_cli.recipe import Recipe, build, load_recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import Frame, FramedImage, Proposals

SMALL = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "trained_stages": 5,
    "channels": 16,
    "anchor_sizes": [12, 24, 48, 96, 128],
    "candidates": 50,
    "regions": 50,
    "region_samples": 64,
    "box_head_dim": 32,
    "box_samples": 32,
    "mask_layers": 1,
    "detections": 10,
}


def small(**options) -> MaskRcnn:
    torch.manual_seed(0)
    return build("proposer", {**SMALL, **options}, MaskRcnn)


@pytest.fixture
def model() -> MaskRcnn:
    return small(score_threshold=0.0).eval()


def framed(image: torch.Tensor, padded: tuple[int, int]) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    pixels = image.new_zeros(3, *padded)
    pixels[:, : size[0], : size[1]] = image
    return FramedImage(pixels, Frame(padded=padded, resized=size, original=size))


def scene(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright rectangle on a dark ground, with its mask."""
    generator = torch.Generator().manual_seed(seed)
    top, left = torch.randint(4, 30, (2,), generator=generator).tolist()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, top : top + 28, left : left + 24] = True
    return 40.0 + 180.0 * mask.expand(3, -1, -1), mask


def test_a_few_scenes_are_learned():
    model = small(backbone_width=16, channels=32)
    images, masks = zip(*(scene(seed) for seed in range(2)), strict=True)
    images = torch.stack(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    before = model.eval().propose_batch(images)
    assert all(best_iou(found, own) < 0.6 for found, own in zip(before, masks, strict=True))
    for step in range(60):
        targets = [AnnotatedMasks(own, 2 * step + i) for i, own in enumerate(masks)]
        losses = model.train()(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert losses["rpn_objectness"] < 0.1
    after = model.eval().propose_batch(images)
    assert all(best_iou(found, own) > 0.7 for found, own in zip(after, masks, strict=True))


def best_iou(proposals: Proposals, masks: torch.Tensor) -> float:
    found = proposals.mask_logits.repeat_interleave(4, 1).repeat_interleave(4, 2) > 0
    ious = (found & masks).sum((1, 2)) / (found | masks).sum((1, 2))
    return max(ious.tolist(), default=0.0)


def test_proposals_cover_the_padded_frame_best_first(model):
    proposals = model.propose(framed(torch.rand(3, 50, 70) * 255, (64, 96)))
    assert isinstance(model, Proposer)
    assert isinstance(model, TrainableProposer)
    assert proposals.mask_logits.shape == (10, 16, 24)
    assert ((proposals.scores >= 0) & (proposals.scores <= 1)).all()
    assert (proposals.scores.diff() <= 0).all()
    assert not proposals.mask_logits.requires_grad


def test_no_mask_begins_in_the_padding_whatever_is_there(model):
    image = framed(torch.rand(3, 48, 64) * 255, (64, 96))
    noisy = image.pixels.clone()
    noisy[:, 48:] = 255
    noisy[:, :, 64:] = 7
    found, same = model.propose(image), model.propose(FramedImage(noisy, image.frame))
    assert torch.equal(found.mask_logits, same.mask_logits)
    assert (found.mask_logits[:, 12:] < 0).all()
    assert (found.mask_logits[:, :, 16:] < 0).all()


def test_a_batch_gives_what_its_images_give_alone(model):
    images = torch.rand(2, 3, 64, 96) * 255
    for image, found in zip(images, model.propose_batch(images), strict=True):
        alone = model.propose(framed(image, (64, 96)))
        assert found.frame == alone.frame
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.mask_logits, alone.mask_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("masks", [0, 1])
def test_every_parameter_learns_from_images_with_and_without_masks(masks):
    model = small().train()
    whole = torch.ones(1, 64, 64, dtype=torch.bool)[:masks]
    losses = model(torch.rand(1, 3, 64, 64) * 255, [AnnotatedMasks(whole, 0)])
    assert losses.keys() == {"rpn_objectness", "rpn_box", "box_class", "box_reg", "mask"}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert (losses["mask"] > 0) == bool(masks)


def test_empty_masks_and_masks_of_one_pixel_are_no_trouble():
    model = small().train()
    image, (mask,) = scene(0)
    pixel = torch.zeros_like(mask)
    pixel[63, 63] = True
    losses = model(image[None], [AnnotatedMasks(torch.stack([mask, pixel]), 0)])
    empty = torch.zeros_like(mask)
    same = model(image[None], [AnnotatedMasks(torch.stack([mask, empty, pixel]), 0)])
    assert all(loss.isfinite() for loss in losses.values())
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in same.items()}


def test_losses_depend_on_the_seed_and_not_on_the_global_generator():
    model = small(region_samples=8, box_samples=8).train()
    image, mask = scene(0)
    first, again, other = (
        sum(model(image[None], [AnnotatedMasks(mask, seed)]).values()).item() for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_losses_are_float32_under_autocast():
    image, mask = scene(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = small().train()(image[None], [AnnotatedMasks(mask, 0)])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_as_many_of_the_backbones_stages_learn_as_are_asked_for():
    learning = {
        name.split(".")[0]
        for name, p in small(trained_stages=2).backbone.named_parameters()
        if p.requires_grad
    }
    assert learning == {"layer3", "layer4"}
    assert not any(p.requires_grad for p in small(trained_stages=0).backbone.parameters())


def test_the_object_score_is_the_objectness_of_the_region_a_box_came_from(model):
    overlapping = [[4.0, 4, 24, 24], [5, 4, 25, 24], [40, 40, 60, 60]]
    regions = Regions(torch.tensor(overlapping), torch.tensor([0.3, 0.9, 0.6]))
    logits, nowhere = torch.tensor([5.0, 1.0, 0.0]), torch.zeros(3, 4)
    found = model._refined(regions, logits, nowhere, (64, 64))
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.boxes.tolist() == [overlapping[1], overlapping[2]]
    model.score_threshold = 0.7
    assert model._refined(regions, logits, nowhere, (64, 64)).scores.tolist() == pytest.approx(
        [0.9]
    )


def test_a_masks_box_ends_after_its_last_pixel():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 7] = True
    assert boxes_of(masks).tolist() == [[2, 1, 7, 3], [7, 5, 8, 6]]
    assert boxes_of(masks[:0]).shape == (0, 4)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 40), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_samples_are_different_boxes_and_objects_are_a_share_at_most(seed, count, share):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (60,), generator=generator)
    chosen = sample(labels, count, share, generator)
    assert len(chosen) == len(set(chosen.tolist())) <= count
    assert (labels[chosen] >= 0).all()
    assert int((labels[chosen] == 1).sum()) <= int(count * share)


def test_a_box_stands_for_what_it_overlaps_most():
    model = small()
    annotated = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[20.0, 20, 30, 29], [0, 0, 10, 8], [50, 50, 60, 60]])
    labels, indices = match(boxes, annotated, model.matcher)
    assert labels.tolist() == [1, 1, 0]
    assert indices[:2].tolist() == [1, 0]
    assert match(boxes, annotated[:0], model.matcher).labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("side", "level"), [(20, 0), (111, 0), (112, 1), (224, 2), (448, 3)])
def test_a_box_is_read_from_the_level_of_its_size(side, level):
    levels = [torch.full((1, 2, 512 // 2**k, 512 // 2**k), float(k)) for k in range(2, 6)]
    found = pool(levels, [torch.tensor([[16.0, 16, 16 + side, 16 + side]])], 7)
    assert found.shape == (1, 2, 7, 7)
    assert torch.all(found == level + 2)


def test_every_box_is_read_from_its_own_image():
    levels = [torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, s, s) for s in (64, 32, 16, 8)]
    boxes = [torch.tensor([[0.0, 0, 20, 20], [0, 0, 250, 250]]), torch.tensor([[9.0, 9, 130, 99]])]
    assert pool(levels, boxes, 2)[:, 0, 0, 0].tolist() == [0, 0, 1]


def test_a_target_is_the_half_of_the_box_that_the_mask_fills():
    masks = torch.zeros(2, 56, 56)
    masks[1, :, 28:] = 1
    targets = mask_targets(masks, torch.tensor([[0.0, 0, 56, 56]]), torch.tensor([1.0]))
    assert targets.shape == (1, 28, 28)
    assert targets[0, :, :14].sum() == 0
    assert targets[0, :, 14:].min() == 1


def test_a_mask_is_pasted_into_its_box():
    logits = torch.full((1, 28, 28), 3.0)
    logits[:, :, 14:] = -3.0
    found = pasted(logits, torch.tensor([[8.0, 16, 40, 32]]), (64, 64), 4)[0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 2:6] = True
    assert torch.equal(found > 0, inside)
    assert found.abs().max() < 9.3
    assert found[5, 3] == pytest.approx(3.0, abs=1e-4)
    assert pasted(logits[:0], torch.zeros(0, 4), (64, 96), 4).shape == (0, 16, 24)


def untrained(folder: Path, **options) -> tuple[Run, Recipe]:
    """A run directory whose proposer is a Mask R-CNN, and its recipe."""
    run = Run(untrained_run(folder))
    section = {"name": "mask_rcnn", **SMALL, **options}
    run.save_artifact(
        "proposals", "teacher", small(**options).state_dict(),
        {"name": "mask_rcnn", "options": section},
    )  # fmt: skip
    recipe = load_recipe(str(folder / "recipe.yaml"))
    return run, Recipe("r", 0, {**recipe.sections, "proposer": section})


@pytest.mark.parametrize(("threshold", "found"), [(1.0, False), (0.0, True)])
def test_an_image_without_any_mask_is_segmented_too(tmp_path, threshold, found):
    run, recipe = untrained(tmp_path, score_threshold=threshold)
    segmenter = Segmenter.from_run(run, recipe)
    image = torch.randint(0, 256, (3, 40, CLIP["image_size"]), dtype=torch.uint8)
    framed_image = segmenter.frame(image)
    assert bool(len(segmenter.propose(framed_image).scores)) == found
    result = segmenter.predict(image, "dog,grass:stuff")
    assert result.panoptic.shape == result.semantic.shape == (40, CLIP["image_size"])
    assert found or not (result.segments or len(result.instances.scores))


def test_a_recipe_that_describes_other_weights_is_refused(tmp_path):
    run, recipe = untrained(tmp_path)
    other = dict(recipe.section("proposer"), anchor_sizes=[8, 16, 32, 64, 128])
    with pytest.raises(CheckpointError, match=r"trained with anchor_sizes .*set proposer\.anchor"):
        proposer_of(run, Recipe("r", 0, {"proposer": other}), device=torch.device("cpu"))
    free = dict(recipe.section("proposer"), detections=3)
    proposer = proposer_of(run, Recipe("r", 0, {"proposer": free}), device=torch.device("cpu"))
    assert proposer.detections == 3


def test_a_recipe_with_another_proposer_than_the_weights_is_refused(tmp_path):
    run, _ = untrained(tmp_path)
    recipe = Recipe("r", 0, {"proposer": {"name": "mask2former"}})
    with pytest.raises(CheckpointError, match="trained with name 'mask_rcnn', but the recipe"):
        proposer_of(run, recipe, device=torch.device("cpu"))


def test_weights_that_say_nothing_of_their_options_are_taken_as_the_recipes(tmp_path):
    run, recipe = untrained(tmp_path)
    run.save_artifact("proposals", "teacher", small().state_dict(), {})
    assert isinstance(proposer_of(run, recipe, device=torch.device("cpu")), MaskRcnn)


def test_every_proposer_says_which_options_are_free():
    for name, proposer in PROPOSERS.items():
        assert set(FREE_OPTIONS[name]) <= set(inspect.signature(proposer).parameters)


def test_a_big_resnet_is_the_default():
    with torch.device("meta"):
        model = MaskRcnn()
    assert sum(p.numel() for p in model.backbone.parameters()) == 23_454_912
    assert model.box_head.layers.fc6.in_features == 256 * 49
