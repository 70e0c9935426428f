"""The choice of pseudo masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.pseudo_masks import plain_pseudo_masks

from ovseg_cli.losses.pseudo_masks import (
    mask_overlaps,
    pseudo_mask_scores,
    pseudo_masks,
    random_points,
    unsuppressed,
)

CPU = torch.device("cpu")
NONE = torch.zeros(0, 16, 16, dtype=torch.bool)


def columns(*ranges: tuple[int, int]) -> torch.Tensor:
    """Masks of whole columns of a 16 x 16 image."""
    masks = torch.zeros(len(ranges), 16, 16, dtype=torch.bool)
    for mask, (first, last) in zip(masks, ranges, strict=True):
        mask[:, first:last] = True
    return masks


def test_a_mask_on_an_annotated_one_is_rejected_and_one_beside_it_taken():
    masks, annotated = columns((0, 5), (8, 12)), columns((0, 4))
    assert pseudo_masks(masks, torch.tensor([0.9, 0.9]), annotated).tolist() == [1]


def test_of_two_overlapping_masks_the_better_one_stays():
    masks = columns((0, 5), (1, 6), (10, 12))
    assert pseudo_masks(masks, torch.tensor([0.85, 0.95, 0.9]), NONE).tolist() == [1, 2]


def test_a_mask_that_was_dropped_suppresses_nothing():
    masks = columns((0, 4), (3, 8), (7, 12))  # the second overlaps with both
    assert pseudo_masks(masks, torch.tensor([0.95, 0.9, 0.85]), NONE).tolist() == [0, 2]


def test_a_mask_that_the_annotations_reject_suppresses_nothing():
    masks, annotated = columns((0, 5), (4, 9)), columns((0, 4))
    assert pseudo_masks(masks, torch.tensor([0.95, 0.9]), annotated).tolist() == [1]


def test_the_score_must_exceed_the_threshold():
    masks = columns((0, 4), (8, 12))
    assert pseudo_masks(masks, torch.tensor([0.8, 0.81]), NONE).tolist() == [1]


@pytest.mark.parametrize("points", [None, random_points(64, seed=0, device=CPU)])
def test_no_mask_at_all_is_fine(points):
    assert pseudo_masks(NONE, torch.zeros(0), columns((0, 4)), points=points).tolist() == []
    assert pseudo_masks(NONE, torch.zeros(0), NONE, points=points).tolist() == []


def test_an_image_without_annotations_takes_what_survives():
    points = random_points(4096, seed=0, device=CPU)
    chosen = pseudo_masks(columns((0, 4), (8, 12)), torch.tensor([0.9, 0.95]), NONE, points=points)
    assert chosen.tolist() == [1, 0]


def test_the_smoothing_rejects_tiny_masks_wherever_they_are():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0, :4] = masks[1, 15, :5] = True  # 9 pixels together: (0 + 1) / (9 + 1) = 0.1
    scores = torch.tensor([0.9, 0.85])
    assert pseudo_masks(masks, scores, NONE).tolist() == [0]
    assert pseudo_masks(masks, scores, NONE, overlap="iou").tolist() == [0, 1]
    masks[1, 15, 5] = True  # 10 pixels: 1 / 11
    assert pseudo_masks(masks, scores, NONE).tolist() == [0, 1]


def test_dice_and_iou_by_hand():
    first, second = columns((0, 4)).flatten(1).float(), columns((2, 8)).flatten(1).float()
    dice = mask_overlaps(first, second, "dice")  # 64 and 96 pixels, 32 shared
    assert dice.item() == pytest.approx(65 / 161)
    assert mask_overlaps(first, second, "iou").item() == pytest.approx(32 / 128)
    empty = torch.zeros_like(first)
    assert mask_overlaps(empty, empty, "iou").item() == 0


def test_dice_rejects_where_iou_does_not():
    masks, annotated = columns((0, 8)), columns((7, 15))  # IoU 1/15, Dice 1/8
    scores = torch.tensor([0.9])
    assert pseudo_masks(masks, scores, annotated, overlap="dice").tolist() == []
    assert pseudo_masks(masks, scores, annotated, overlap="iou").tolist() == [0]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 12),
    annotated=st.integers(0, 3),
    overlap=st.sampled_from(["dice", "iou"]),
    threshold=st.sampled_from([0.1, 0.3, 0.5]),
)
def test_every_pixel_compared_equals_one_mask_after_the_other(
    seed, count, annotated, overlap, threshold
):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 15, 12, 12, generator=generator)
    blobs = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0, : count + annotated] > 0.55
    scores = torch.randint(0, 8, (count,), generator=generator) / 8  # with ties
    rule = {"score_threshold": 0.25, "overlap": overlap, "overlap_threshold": threshold}
    chosen = pseudo_masks(blobs[:count], scores, blobs[count:], **rule)
    expected = plain_pseudo_masks(blobs[:count], scores, blobs[count:], **rule)
    assert chosen.tolist() == expected


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([0.02, 0.1, 0.5]))
def test_suppression_equals_the_sequential_recurrence(seed, count, share):
    conflicts = torch.rand(count, count, generator=torch.Generator().manual_seed(seed)) < share
    expected: list[int] = []
    for item in range(count):
        if not any(bool(conflicts[other, item]) for other in expected):
            expected.append(item)
    assert unsuppressed(conflicts).nonzero().flatten().tolist() == expected


def test_a_chain_of_conflicts_is_resolved_to_its_end():
    conflicts = torch.ones(50, 50).tril(1).bool()  # each with the next alone
    assert unsuppressed(conflicts).nonzero().flatten().tolist() == list(range(0, 50, 2))


def test_points_depend_on_the_seed_alone_and_the_two_draws_differ():
    first, again = (random_points(32, seed=5, device=CPU) for _ in range(2))
    assert torch.equal(first.with_annotated, again.with_annotated)
    assert torch.equal(first.with_others, again.with_others)
    assert not torch.equal(first.with_annotated, first.with_others)
    assert not torch.equal(first.with_others, random_points(32, seed=6, device=CPU).with_others)


def test_the_score_is_the_object_score_times_the_mean_probability_inside():
    logits = torch.full((3, 2, 2), -9.0)
    logits[0, 0, 0], logits[0, 0, 1] = 1.0, 3.0
    logits[1] = 20.0
    probability = torch.tensor([1.0, 3.0]).sigmoid().mean()
    scores = pseudo_mask_scores(logits, torch.tensor([0.5, 0.75, 1.0]))
    assert torch.allclose(scores, torch.tensor([0.5 * probability, 0.75, 0.0]))


def test_overlaps_stay_in_float32_under_autocast():
    masks = torch.ones(2, 5001)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        overlaps = mask_overlaps(masks, masks, "dice")
    assert overlaps.dtype == torch.float32
    assert torch.equal(overlaps, torch.ones(2, 2))
