"""Inference beside slow, obvious loops, and on cases worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli import inference
from ovseg_cli.inference import (
    InferenceOptions,
    instances,
    panoptic_map,
    segment,
    semantic_map,
    semantic_scores,
    upsample,
)
from ovseg_cli.structures import Frame, Segment


def scene(seed: int, masks: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class probabilities, blobs of mask logits at 12 x 10, things."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (4 * torch.randn(masks, classes, generator=generator)).softmax(-1)
    probabilities *= torch.rand(masks, 1, generator=generator)
    logits = 3 * torch.randn(masks, 3, 3, generator=generator)
    logits = upsample(logits, Frame((12, 10), (12, 10), (12, 10)))
    is_thing = torch.rand(classes, generator=generator) > 0.5
    return probabilities, logits, is_thing


def plain_panoptic(
    probabilities: Tensor, masks: Tensor, is_thing: Tensor, object_threshold: float, overlap: float
) -> tuple[Tensor, list[Segment]]:
    """One mask after the other, as the papers describe it."""
    kept = [n for n in range(len(masks)) if probabilities[n].max() > object_threshold]
    found: list[Segment] = []
    result = torch.zeros(masks.shape[1:], dtype=torch.int32)
    if not kept:
        return result, found
    weighted = torch.stack([probabilities[n].max() * masks[n] for n in kept])
    for place, n in enumerate(kept):
        score, label = probabilities[n].max(), int(probabilities[n].argmax())
        won = weighted.argmax(0) == place
        area = won & (masks[n] >= 0.5)
        if not area.any() or won.sum() / (masks[n] >= 0.5).sum() < overlap:
            continue
        same = [s for s in found if s.label == label and not s.is_thing]
        if same:
            result[area] = same[0].id
            continue
        found.append(Segment(len(found) + 1, label, bool(is_thing[label]), float(score), 0))
        result[area] = found[-1].id
    return result, found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 8), st.integers(1, 5), st.sampled_from([0.0, 0.4]))
def test_panoptic_maps_equal_the_plain_loop(
    seed: int, masks: int, classes: int, threshold: float
) -> None:
    probabilities, logits, is_thing = scene(seed, masks, classes)
    found, segments = panoptic_map(
        probabilities,
        logits.sigmoid(),
        is_thing,
        object_threshold=threshold,
        overlap_threshold=0.6,
    )
    expected, plain = plain_panoptic(probabilities, logits.sigmoid(), is_thing, threshold, 0.6)
    assert torch.equal(found, expected)
    assert [(s.id, s.label, s.is_thing) for s in segments] == [
        (s.id, s.label, s.is_thing) for s in plain
    ]
    for one in segments:
        assert one.area == int((found == one.id).sum())


def test_stuff_of_one_class_is_one_segment_and_things_stay_apart() -> None:
    masks = torch.zeros(4, 4, 4)
    for place in range(4):
        masks[place, place] = 0.9
    probabilities = torch.tensor([[0.9, 0.0], [0.7, 0.0], [0.0, 0.8], [0.0, 0.6]])
    found, segments = panoptic_map(
        probabilities,
        masks,
        torch.tensor([False, True]),
        object_threshold=0.3,
        overlap_threshold=0.3,
    )
    assert found[:, 0].tolist() == [1, 1, 2, 3]
    assert [(s.label, s.area) for s in segments] == [(0, 8), (1, 4), (1, 4)]
    assert segments[0].score == pytest.approx(0.9)


@pytest.mark.parametrize("budget", [1, 130, 1 << 24])
def test_the_semantic_map_is_the_same_in_any_number_of_chunks(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities, logits, _ = scene(3, 6, 9)
    expected = semantic_scores(probabilities, logits.sigmoid()).argmax(0)
    monkeypatch.setattr(inference, "CHUNK", budget)
    assert torch.equal(semantic_map(probabilities, logits.sigmoid()), expected)


def test_masks_are_upsampled_to_the_padded_size_cropped_and_resized() -> None:
    logits = torch.randn(2, 8, 16)
    frame = Frame(padded=(32, 64), resized=(30, 50), original=(60, 100))
    expected = F.interpolate(logits[None], (32, 64), mode="bilinear")[:, :, :30, :50]
    expected = F.interpolate(expected, (60, 100), mode="bilinear")[0]
    torch.testing.assert_close(upsample(logits, frame), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["all", "things"]))
def test_dropping_masks_before_upsampling_changes_nothing(
    seed: int, masks: int, ranked: str
) -> None:
    probabilities, logits, is_thing = scene(seed, masks, 4)
    frame = Frame((48, 40), (40, 38), (20, 19))
    options = InferenceOptions(object_threshold=0.4, top_k=3, top_k_over=ranked)
    whole = segment(probabilities, logits, frame, is_thing, options=options)
    full = upsample(logits, frame)
    panoptic, segments = panoptic_map(
        probabilities, full.sigmoid(), is_thing, object_threshold=0.4, overlap_threshold=0.3
    )
    for task in ("panoptic", "instance"):
        alone = segment(probabilities, logits, frame, is_thing, tasks=(task,), options=options)
        assert alone.semantic is None
        if task == "panoptic":
            assert torch.equal(alone.panoptic, panoptic)
            assert alone.segments == segments
            assert alone.instances is None
        else:
            found = instances(probabilities, full, is_thing, options=options)
            keep = found.masks.flatten(1).any(1)
            assert torch.equal(alone.instances.masks, found.masks[keep])
            assert torch.equal(alone.instances.labels, found.labels[keep])
    assert torch.equal(whole.panoptic, panoptic)
    assert whole.semantic.shape == (20, 19)


def test_an_instances_score_is_class_times_mean_mask_probability_inside() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, -3.0]]])
    probabilities = torch.tensor([[0.6, 0.3]])
    found = instances(
        probabilities, logits, torch.tensor([True, False]), options=InferenceOptions(top_k=2)
    )
    inside = torch.tensor([2.0, 0.5]).sigmoid().mean()
    assert found.labels.tolist() == [0]
    torch.testing.assert_close(found.scores, (0.6 * inside)[None])
    assert found.masks.tolist() == [[[True, False], [True, False]]]


def test_stuff_takes_no_place_when_things_are_ranked_alone() -> None:
    logits = torch.ones(2, 2, 2)
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    is_thing = torch.tensor([False, True])
    published = InferenceOptions(top_k=2)
    things = InferenceOptions(top_k=2, top_k_over="things")
    assert len(instances(probabilities, logits, is_thing, options=published).labels) == 0
    assert len(instances(probabilities, logits, is_thing, options=things).labels) == 2


def test_a_mask_that_the_background_wins_is_no_panoptic_segment_if_asked() -> None:
    probabilities = torch.tensor([[0.40, 0.15], [0.30, 0.25], [0.50, 0.00]])  # background: the rest
    logits = torch.full((3, 2, 6), -9.0)
    for mask in range(3):
        logits[mask, :, 2 * mask : 2 * mask + 2] = 9.0
    frame, is_thing = Frame((2, 6), (2, 6), (2, 6)), torch.tensor([True, True])
    maps = {}
    for reject in (False, True):
        options = InferenceOptions(object_threshold=0.1, reject_background=reject)
        result = segment(probabilities, logits, frame, is_thing, options=options)
        assert result.panoptic is not None
        assert result.semantic is not None
        assert result.instances is not None
        maps[reject] = result.panoptic[0].tolist()
        assert result.semantic[0].tolist() == [0] * 6
        assert len(result.instances.labels) == 6  # every pair of mask and class
    assert maps[False] == [1, 1, 2, 2, 3, 3]
    assert maps[True] == [0, 0, 0, 0, 0, 0]
    sure = probabilities + torch.tensor([[0.1, 0.0], [0.0, 0.0], [0.01, 0.0]])
    options = InferenceOptions(object_threshold=0.1, reject_background=True)
    found = segment(sure, logits, frame, is_thing, options=options).panoptic
    assert found is not None
    assert found[0].tolist() == [1, 1, 0, 0, 2, 2]


def test_an_empty_mask_is_no_instance_and_no_segment() -> None:
    result = segment(
        torch.tensor([[0.9]]),
        torch.full((1, 2, 2), -5.0),
        Frame((8, 8), (8, 8), (8, 8)),
        torch.tensor([True]),
    )
    assert len(result.instances.labels) == 0
    assert result.segments == ()
    assert result.panoptic.max() == 0


def test_no_proposals_give_empty_results() -> None:
    result = segment(
        torch.zeros(0, 3),
        torch.zeros(0, 2, 2),
        Frame((8, 8), (8, 8), (5, 7)),
        torch.tensor([True, False, True]),
    )
    assert result.panoptic.shape == (5, 7)
    assert result.semantic.shape == (5, 7)
    assert len(result.instances.labels) == 0
