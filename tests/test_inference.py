"""Inference beside slow, obvious loops, and on cases worked by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import inference as plain
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ovseg_cli import inference, upsampling
from ovseg_cli.inference import (
    InferenceOptions,
    checked_tasks,
    instances,
    panoptic_map,
    segment,
    semantic_map,
    semantic_scores,
)
from ovseg_cli.structures import Frame, Segmentation
from ovseg_cli.upsampling import upsample


def scene(seed: int, masks: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class probabilities, blobs of mask logits at 12 x 10, things."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (4 * torch.randn(masks, classes, generator=generator)).softmax(-1)
    probabilities *= torch.rand(masks, 1, generator=generator)
    logits = 3 * torch.randn(masks, 3, 3, generator=generator)
    logits = upsample(logits, Frame((12, 10), (12, 10), (12, 10)))
    is_thing = torch.rand(classes, generator=generator) > 0.5
    return probabilities, logits, is_thing


def share_of_difference(found: Tensor | None, expected: Tensor) -> float:
    assert found is not None
    assert found.shape == expected.shape
    return (found != expected).sum().item() / max(1, expected.numel())


@st.composite
def frames(draw: st.DrawFn) -> tuple[tuple[int, int], Frame]:
    """A mask grid and a frame: odd sizes, padding, an original that is smaller or larger."""
    grid = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    padded = tuple(draw(st.sampled_from([side, 4 * side])) for side in grid)
    resized = tuple(draw(st.integers(-(-side // 2), side)) for side in padded)
    original = tuple(draw(st.integers(1, 40)) for _ in padded)
    return grid, Frame(padded, resized, original)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    frames(),
    st.sampled_from([0, 1, 2, 7, 40]),
    st.sampled_from([1, 2, 5, 30]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.2, 0.8]),
    st.sampled_from([1, 7, 100]),
)
def test_the_three_results_equal_the_published_way(
    seed: int,
    shape: tuple[tuple[int, int], Frame],
    masks: int,
    classes: int,
    object_threshold: float,
    overlap_threshold: float,
    top_k: int,
) -> None:
    (grid, frame), generator = shape, torch.Generator().manual_seed(seed)
    probabilities, _, is_thing = scene(seed, masks, classes)
    mask_logits = 3 * torch.randn(masks, *grid, generator=generator)
    options = InferenceOptions(
        object_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
        reject_background=True,
        top_k=top_k,
    )
    with small_tiles():
        found = segment(probabilities, mask_logits, frame, is_thing, options=options)
    check_beside_plain(found, probabilities, mask_logits, frame, is_thing, options)


@pytest.mark.parametrize("classes", [1, 3000])
def test_so_do_those_of_few_and_of_many_classes(classes: int) -> None:
    probabilities, mask_logits, is_thing = scene(1, 20, classes)
    frame = Frame((48, 40), (47, 33), (60, 41))
    options = InferenceOptions(object_threshold=0.0, overlap_threshold=0.3, reject_background=True)
    with small_tiles():
        found = segment(probabilities, mask_logits, frame, is_thing, options=options)
    check_beside_plain(found, probabilities, mask_logits, frame, is_thing, options)


@contextmanager
def small_tiles(values: int = 256) -> Iterator[None]:
    """Tiles and chunks of classes of about so many values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "CPU_TILE", values)
        patch.setattr(upsampling, "SMALLEST_SIDE", 6)
        patch.setattr(inference.semantic, "CHUNK", values)
        yield


def check_beside_plain(
    found: Segmentation,
    probabilities: Tensor,
    mask_logits: Tensor,
    frame: Frame,
    is_thing: Tensor,
    options: InferenceOptions,
) -> None:
    """Labels but for a tie or two, segments, and instances in any order of equal scores."""
    logits = plain.upsampled(mask_logits, frame)
    ties = max(1e-3, 1.5 / logits[0].numel()) if len(logits) else 0
    expected = plain.semantic(probabilities, logits).argmax(0)
    assert share_of_difference(found.semantic, expected) <= ties
    panoptic, segments = plain.panoptic(
        probabilities,
        1 - probabilities.sum(-1),
        logits,
        is_thing,
        object_threshold=options.object_threshold,
        overlap_threshold=options.overlap_threshold,
    )
    assert share_of_difference(found.panoptic, panoptic) <= ties
    assert [(s.id, s.label, s.is_thing) for s in found.segments] == segments
    for one in found.segments:
        assert one.area == int((found.panoptic == one.id).sum())
    masks, labels, scores = plain.instances(probabilities, logits, is_thing, top_k=options.top_k)
    some = masks.flatten(1).any(1)
    order = scores[some].argsort(descending=True)
    assert found.instances is not None
    torch.testing.assert_close(found.instances.scores, scores[some][order], atol=1e-5, rtol=1e-5)
    assert sorted(found.instances.labels.tolist()) == sorted(labels[some].tolist())
    assert share_of_difference(found.instances.masks, masks[some][order]) <= ties


VALUES = 1 << 16


class LargestTensor(TorchDispatchMode):
    """Notes the most values of a floating-point tensor that an operation gives."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.values = max(self.values, tensor.numel())
        return result


@pytest.mark.parametrize("classes", [3, 3000])
def test_a_semantic_map_of_the_resized_image_is_that_of_its_scores_resized(classes: int) -> None:
    probabilities, mask_logits, is_thing = scene(1, 20, classes)
    frame = Frame((48, 40), (47, 33), (60, 41))
    resized = plain.upsampled(mask_logits, Frame(frame.padded, frame.resized, frame.resized))
    scores = plain.resized(plain.semantic(probabilities, resized), frame.original)
    with small_tiles():
        found, usual = (
            segment(probabilities, mask_logits, frame, is_thing, options=InferenceOptions(**option))
            for option in ({"semantic_at": "resized"}, {})
        )
    assert share_of_difference(found.semantic, scores.argmax(0)) <= 1e-3
    assert torch.equal(found.panoptic, usual.panoptic)
    assert found.instances is not None


@pytest.mark.parametrize("semantic_at", ["original", "resized"])
@pytest.mark.parametrize("task", inference.TASKS)
def test_no_tensor_has_a_number_for_every_mask_or_class_and_pixel(
    task: inference.Task, semantic_at: Literal["original", "resized"]
) -> None:
    count, size = 20, (360, 480)
    probabilities, mask_logits, is_thing = scene(2, count, 200)
    frame = Frame((96, 80), (96, 80), size)
    with small_tiles(VALUES), LargestTensor() as largest:
        segment(
            probabilities,
            mask_logits,
            frame,
            is_thing | True,
            tasks=(task,),
            options=InferenceOptions(object_threshold=0.0, semantic_at=semantic_at),
        )
    assert largest.values <= 2 * VALUES + size[0] * size[1]


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
    monkeypatch.setattr(inference.semantic, "CHUNK", budget)
    assert torch.equal(semantic_map(probabilities, logits.sigmoid()), expected)


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


@pytest.mark.parametrize("names", ["panoptic", ["panoptic", "panoptics"]])
def test_tasks_that_there_are_not_are_refused(names) -> None:
    with pytest.raises(ValueError, match="a list of some of panoptic, semantic, instance is"):
        checked_tasks(names)
    assert checked_tasks({"instance", "panoptic"}) == ("panoptic", "instance")
