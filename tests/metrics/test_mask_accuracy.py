"""Accuracy of naming given masks, and the groups that it is averaged over."""

import numpy as np
import pytest
import torch

from ovseg_cli.metrics.class_groups import class_groups, harmonic_mean
from ovseg_cli.metrics.mask_accuracy import MaskAccuracy
from ovseg_cli.structures import Vocabulary


def vocabulary(seen: tuple[bool, ...] = ()) -> Vocabulary:
    names = ("dog", "cat", "sky")
    return Vocabulary(names, tuple((name,) for name in names), (True, True, False), seen)


def test_groups_are_things_stuff_base_and_novel() -> None:
    assert class_groups(vocabulary()) == {"all": (0, 1, 2), "things": (0, 1), "stuff": (2,)}
    groups = class_groups(vocabulary((True, False, True)))
    assert groups["base"] == (0, 2)
    assert groups["novel"] == groups["novel_things"] == (1,)
    assert groups["base_things"] == (0,)
    assert "novel_stuff" not in groups


def test_every_class_weighs_the_same() -> None:
    metric = MaskAccuracy(3)
    metric.update(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
    metric.update(torch.tensor([2]), torch.tensor([0]))
    result = metric.compute(class_groups(vocabulary((True, False, True))))
    assert result.accuracy[:2] == pytest.approx([2 / 3, 1 / 2])
    assert np.isnan(result.accuracy[2])
    assert result.groups["base"] == pytest.approx(2 / 3)
    assert result.groups["all"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.harmonic == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert metric.compute(class_groups(vocabulary())).harmonic is None


def test_the_harmonic_mean_of_nothing_right_is_zero() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(1.0, 1.0) == 1.0
