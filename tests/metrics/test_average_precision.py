"""Average precision of instance masks."""

import math

import pytest
import torch
from torch import Tensor

from ovseg_cli.metrics.average_precision import AveragePrecision
from ovseg_cli.structures import Instances

GROUPS = {"all": (0, 1, 2), "base": (0,), "novel": (1, 2)}


def squares(*corners: int) -> Tensor:
    masks = torch.zeros(len(corners), 20, 20, dtype=torch.bool)
    for mask, corner in zip(masks, corners, strict=True):
        mask[corner : corner + 8, corner : corner + 8] = True
    return masks


def found(masks: Tensor, labels: list[int], scores: list[float]) -> Instances:
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores))


def test_ground_truth_as_prediction_scores_exactly_one() -> None:
    metric = AveragePrecision(3)
    masks, labels = squares(0, 5, 12), torch.tensor([0, 0, 1])
    for _ in range(3):
        metric.update(found(masks, [0, 0, 1], [0.9, 0.8, 0.7]), masks, labels, labels < 0)
    result = metric.compute(GROUPS)
    assert result.groups["all"] == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert math.isnan(result.ap[2])


def test_a_better_scored_wrong_mask_halves_the_precision() -> None:
    metric = AveragePrecision(3)
    metric.update(
        found(squares(10, 0), [0, 0], [0.9, 0.5]),
        squares(0),
        torch.tensor([0]),
        torch.tensor([False]),
    )
    result = metric.compute(GROUPS)
    assert result.ap50[0] == pytest.approx(0.5)
    assert result.groups["base"]["ap"] == pytest.approx(0.5)
    assert math.isnan(result.groups["novel"]["ap"])


def test_overlap_decides_which_thresholds_are_met() -> None:
    metric = AveragePrecision(3)
    masks = squares(0)
    loose = masks.clone()
    loose[0, :8, 8:12] = True  # IoU 64 / 96
    metric.update(found(loose, [1], [0.5]), masks, torch.tensor([1]), torch.tensor([False]))
    result = metric.compute(GROUPS)
    assert result.ap50[1] == 1.0
    assert result.ap75[1] == 0.0
    assert result.ap[1] == pytest.approx(0.4)  # 0.50, 0.55, 0.60, 0.65 of ten


def test_a_mask_inside_a_crowd_is_no_false_positive() -> None:
    metric = AveragePrecision(3)
    masks = squares(0, 10)
    metric.update(
        found(masks, [0, 0], [0.5, 0.9]),
        masks,
        torch.tensor([0, 0]),
        torch.tensor([False, True]),
    )
    assert metric.compute(GROUPS).ap[0] == 1.0


def test_images_without_predictions_or_annotations_are_counted() -> None:
    metric = AveragePrecision(3)
    none = found(squares(), [], [])
    empty = torch.zeros(0, dtype=torch.int64)
    metric.update(none, squares(), empty, empty.bool())
    assert math.isnan(metric.compute(GROUPS).groups["all"]["ap"])
    metric.update(none, squares(3), torch.tensor([2]), torch.tensor([False]))
    assert metric.compute(GROUPS).ap[2] == 0.0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    metric = AveragePrecision(3)
    metric.update(
        found(squares(0), [0], [0.5]), squares(0), torch.tensor([0]), torch.tensor([False])
    )
    metric.compute(GROUPS)
    assert capfd.readouterr().out == ""
