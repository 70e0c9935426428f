"""PQ and mIoU beside independent implementations: counted pair by pair, and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.panoptic_and_semantic_metrics import PlainPanoptic, PlainSemantic, Segments
from torch import Tensor

import ovseg_cli.torchvision_ops  # noqa: F401  torchmetrics imports torchvision
from ovseg_cli.metrics.panoptic_quality import PanopticQuality
from ovseg_cli.metrics.semantic_iou import SemanticIou

CLASSES = 4
GROUPS = {"all": (0, 1, 2, 3), "things": (0, 1), "stuff": (2, 3)}


def segments(generator: torch.Generator, most: int, *, crowds: bool) -> Segments:
    """Rectangles painted over one another on void, some of them crowds."""
    painted = torch.zeros(10, 12, dtype=torch.int64)
    for segment in range(1, most + 1):
        top, left, height, width = torch.randint(0, 9, (4,), generator=generator).tolist()
        painted[top : top + height + 1, left : left + width + 1] = segment
    present = torch.cat([torch.zeros(1).long(), painted[painted > 0].unique()])
    painted = torch.searchsorted(present, painted)
    count = len(present) - 1
    labels = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
    flags = torch.rand(count, generator=generator) < 0.3 * crowds
    return Segments(painted.numpy(), labels, flags.tolist())


def update(metric: PanopticQuality, truth: Segments, found: Segments) -> None:
    metric.update(
        torch.from_numpy(found.ids),
        torch.tensor(found.labels, dtype=torch.int64),
        torch.from_numpy(truth.ids),
        torch.tensor(truth.labels, dtype=torch.int64),
        torch.tensor(truth.crowd, dtype=torch.bool),
    )


def jittered(truth: Segments, generator: torch.Generator) -> Segments:
    """The same a step aside, with some other classes: many matches, few of them whole."""
    labels = [
        label if float(torch.rand(1, generator=generator)) < 0.8 else (label + 1) % CLASSES
        for label in truth.labels
    ]
    return Segments(np.roll(truth.ids, 1, 1), labels, [False] * len(labels))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_panoptic_quality_equals_the_count_of_pairs(seed: int, images: int, near: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, peer = PanopticQuality(CLASSES), PlainPanoptic()
    for _ in range(images):
        truth = segments(generator, 6, crowds=True)
        found = jittered(truth, generator) if near else segments(generator, 6, crowds=False)
        update(ours, truth, found)
        peer.update(truth, found)
    result, expected = ours.compute(GROUPS), peer.compute()
    for label in range(CLASSES):
        values = result.pq[label], result.sq[label], result.rq[label]
        if label not in expected:
            assert all(math.isnan(value) for value in values)
        else:
            assert values == pytest.approx(expected[label], abs=1e-12)
    for name, members in GROUPS.items():
        chosen = [expected[label] for label in members if label in expected]
        group = result.groups[name]
        assert group.classes == len(chosen)
        if chosen:
            means = np.mean(chosen, axis=0)
            assert (group.pq, group.sq, group.rq) == pytest.approx(means, abs=1e-12)


def test_every_rule_of_panoptic_quality_in_one_image_by_hand() -> None:
    # columns of one pixel; A and B are things, C is stuff
    truth = Segments(
        np.array([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0]]),
        [0, 0, 1],  # A, A as a crowd, B
        [False, True, False],
    )
    found = Segments(
        np.array([[1, 1, 1, 4, 2, 2, 5, 5, 3, 3, 3, 3]]),
        [0, 0, 1, 1, 2],  # A, A in the crowd, half of B and void, a B on an A, a C on a B
        [False] * 5,
    )
    metric = PanopticQuality(3)
    update(metric, truth, found)
    # A: 3 of 4 pixels: IoU 3/4; the second A lies in its crowd
    # B: segment 3 has 2 of B and 2 of void: IoU 2/4 after void is taken out, no match; half of it
    # is void, which is not more than half, so that it is wrong; segment 4 is wrong; B is missed
    assert metric.iou_sum.tolist() == [0.75, 0.0, 0.0]
    assert metric.matched.tolist() == [1, 0, 0]
    assert metric.false_positives.tolist() == [0, 2, 1]
    assert metric.missed.tolist() == [0, 1, 0]
    result = metric.compute({"all": (0, 1, 2)})
    assert result.pq.tolist() == [0.75, 0.0, 0.0]
    assert result.groups["all"].pq == 0.25


def test_a_segment_that_the_labels_lack_is_a_mistake_of_the_caller() -> None:
    one, two = torch.tensor([[1]]), torch.tensor([[2]])
    label, crowd = torch.tensor([0]), torch.tensor([False])
    metric = PanopticQuality(1)
    with pytest.raises(ValueError, match="prediction: segments 2 to 2, labels for 1"):
        metric.update(two, label, one, label, crowd)
    with pytest.raises(ValueError, match="target: segments 2 to 2"):
        metric.update(one, label, two, label, crowd)
    assert metric.matched.sum() == 0


def maps(seed: int, images: int) -> list[tuple[Tensor, Tensor]]:
    """Predictions and truths with void, classes that only one of them has, and a third agreed."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(-1, CLASSES, (images, 6, 7), generator=generator)
    truth = torch.randint(-1, CLASSES - 1, (images, 6, 7), generator=generator)
    agreed = torch.rand(found.shape, generator=generator) < 0.3
    return list(zip(found, torch.where(agreed, found, truth), strict=True))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_both_mean_ious_equal_the_count_of_pairs(seed: int, images: int) -> None:
    ours, peer = SemanticIou(CLASSES), PlainSemantic()
    for found, truth in maps(seed, images):
        ours.update(found, truth)
        peer.update(truth.numpy(), found.numpy())
    result = ours.compute(GROUPS)
    of_truth, of_both, iou = peer.compute()
    assert result.miou["all"] == pytest.approx(of_truth, abs=1e-12)
    # detectron2 0.6 divides what the classes of the truth have by the classes of either
    assert result.miou_union["all"] == pytest.approx(of_both, abs=1e-12)
    for label in range(CLASSES):
        assert result.iou[label] == pytest.approx(iou.get(label, math.nan), nan_ok=True)


def test_torchmetrics_counts_the_same_confusions() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    found, truth = (torch.stack(part) for part in zip(*maps(3, 5), strict=True))
    found = found.clamp(min=0)  # which has no prediction without a label
    ours = SemanticIou(CLASSES)
    for one, other in zip(found, truth, strict=True):
        ours.update(one, other)
    options = {"num_classes": CLASSES, "ignore_index": -1}
    theirs = functional.multiclass_confusion_matrix(found, truth, **options)
    assert ours.confusion[:, :CLASSES].tolist() == theirs.tolist()
    jaccard = functional.multiclass_jaccard_index(found, truth, average="none", **options)
    assert ours.compute(GROUPS).iou == pytest.approx(jaccard.numpy(), abs=1e-6)


@pytest.mark.parametrize("kind", [torch.int16, torch.int32])
def test_small_integers_do_not_overflow(kind: torch.dtype) -> None:
    metric = SemanticIou(250)
    metric.update(torch.full((2, 2), 249, dtype=kind), torch.full((2, 2), 249, dtype=kind))
    assert metric.confusion[249, 249] == 4 == metric.confusion.sum()


def test_an_index_of_no_class_is_a_mistake_of_the_caller() -> None:
    metric, none = SemanticIou(2), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="prediction: indices from 0 to 2, there are 2 classes"):
        metric.update(torch.tensor([[0, 2]]), none)
    with pytest.raises(ValueError, match="target: indices from -2 to 0"):
        metric.update(none, torch.tensor([[-2, 0]]))
    assert metric.confusion.sum() == 0
