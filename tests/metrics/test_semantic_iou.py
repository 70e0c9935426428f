"""Mean IoU by both rules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.metrics.semantic_iou import SemanticIou

ALL = {"all": (0, 1, 2, 3), "some": (0, 1)}


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_confusion_counts_equal_the_loop_over_pixels(seed: int, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric, plain = SemanticIou(4), np.zeros((4, 5))
    for _ in range(images):
        found = torch.randint(-1, 4, (5, 6), generator=generator)
        truth = torch.randint(-1, 3, (5, 6), generator=generator)
        metric.update(found, truth)
        for f, t in zip(found.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if t >= 0:
                plain[t, 4 if f < 0 else f] += 1
    assert np.array_equal(metric.confusion, plain)


def test_the_two_rules_differ_by_classes_that_are_only_predicted() -> None:
    metric = SemanticIou(4)
    metric.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]))
    result = metric.compute(ALL)
    assert result.iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(result.iou[3])
    assert result.miou["all"] == pytest.approx(1.5 / 2)
    assert result.miou_union["all"] == pytest.approx(1.5 / 3)
    assert result.miou["some"] == pytest.approx(0.75)


def test_void_pixels_count_for_nothing() -> None:
    metric = SemanticIou(4)
    metric.update(torch.tensor([[0, 3, 3, 3]]), torch.tensor([[0, -1, -1, -1]]))
    result = metric.compute(ALL)
    assert result.miou["all"] == result.miou_union["all"] == 1.0


def test_a_pixel_without_a_label_is_a_miss() -> None:
    metric = SemanticIou(4)
    metric.update(torch.tensor([[0, -1]]), torch.tensor([[0, 0]]))
    assert metric.compute(ALL).miou["all"] == 0.5


def test_a_perfect_prediction_scores_exactly_one() -> None:
    metric = SemanticIou(4)
    truth = torch.randint(-1, 4, (9, 9), generator=torch.Generator().manual_seed(0))
    metric.update(truth, truth)
    assert metric.compute(ALL).miou == {"all": 1.0, "some": 1.0}
