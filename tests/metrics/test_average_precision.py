"""Average precision of instance masks, by hand and beside a loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import average_precision as plain
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


def boxes(generator: torch.Generator, count: int) -> Tensor:
    masks = torch.zeros(count, 12, 12, dtype=torch.bool)
    for mask in masks:
        top, left, height, width = torch.randint(0, 8, (4,), generator=generator).tolist()
        mask[top : top + height + 2, left : left + width + 2] = True
    return masks


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_precision_equals_greedy_matching_in_a_loop(seed: int, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric, scenes = AveragePrecision(1), []
    for _ in range(images):
        truth = boxes(generator, int(torch.randint(0, 4, (1,), generator=generator)))
        near = truth.roll(1, -1)[torch.rand(len(truth), generator=generator) < 0.7]
        more = boxes(generator, int(torch.randint(0, 3, (1,), generator=generator)))
        masks = torch.cat([near, truth[:1], more])
        scores = torch.rand(len(masks), generator=generator).sort(descending=True)[0]
        crowd = torch.rand(len(truth), generator=generator) < 0.3
        labels = torch.zeros(len(truth), dtype=torch.int64)
        metric.update(found(masks, [0] * len(masks), scores.tolist()), truth, labels, crowd)
        sides = [list(part.numpy()) for part in (truth, masks)]
        scenes.append(plain.Scene(sides[0], crowd.tolist(), sides[1], scores.tolist()))
    result = metric.compute({"all": (0,)})
    for values, threshold in ((result.ap50, 0.5), (result.ap75, 0.75)):
        expected = plain.precision_at(scenes, threshold)
        assert values[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert result.ap[0] == pytest.approx(plain.average_precision(scenes), abs=1e-9, nan_ok=True)


def test_objects_of_every_size_count() -> None:
    """COCO's areas are small, medium and large; what is printed is of all of them."""
    metric = AveragePrecision(3)
    masks = torch.zeros(3, 200, 200, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, :50, 10:60] = masks[2, :150, 60:] = True  # 4, 2500, 21000 pixels
    labels = torch.tensor([0, 0, 0])
    metric.update(found(masks[1:], [0, 0], [0.9, 0.8]), masks, labels, labels > 0)
    assert metric.compute(GROUPS).ap[0] == pytest.approx(67 / 101)  # recall 2/3: points to 0.66


def test_the_best_hundred_of_a_class_and_image_count() -> None:
    masks = squares(*[10] * 101, 0)  # the right one has the lowest score of 102
    metric = AveragePrecision(3)
    scores = torch.linspace(0.9, 0.1, 102).tolist()
    labels = torch.tensor([0])
    metric.update(found(masks, [0] * 102, scores), squares(0), labels, labels > 0)
    assert metric.compute(GROUPS).ap[0] == 0.0
    fewer = AveragePrecision(3)
    fewer.update(found(masks[2:], [0] * 100, scores[2:]), squares(0), labels, labels > 0)
    assert fewer.compute(GROUPS).ap50[0] == pytest.approx(0.01)


def test_a_crowd_excuses_as_many_as_lie_in_it() -> None:
    crowd = torch.zeros(1, 20, 20, dtype=torch.bool)
    crowd[0, :, 10:] = True
    inside = squares(12, 11)
    metric = AveragePrecision(3)
    metric.update(
        found(torch.cat([inside, squares(0)]), [0, 0, 0], [0.9, 0.8, 0.7]),
        torch.cat([squares(0), crowd]),
        torch.tensor([0, 0]),
        torch.tensor([False, True]),
    )
    assert metric.compute(GROUPS).ap[0] == 1.0


def lvis_table(absent: tuple[int, ...], incomplete: tuple[int, ...]) -> list[float]:
    """AP50 where class 0 is found right and wrong, and a wrong 1 is found; 1 is annotated once."""
    metric = AveragePrecision(3)
    labels = torch.tensor([0])
    metric.update(
        found(squares(10, 0, 10), [0, 0, 1], [0.9, 0.8, 0.7]),
        squares(0),
        labels,
        labels > 0,
        absent=absent,
        incomplete=incomplete,
    )
    metric.update(
        found(squares(0), [1], [0.6]), squares(0), labels + 1, labels > 0, absent=(), incomplete=()
    )
    return metric.compute(GROUPS).ap50[:2].tolist()


def test_lviss_rules_by_hand() -> None:
    # nobody looked for 1 in the first image: its wrong one does not count
    assert lvis_table((), ()) == pytest.approx([0.5, 1.0])
    # 1 was looked for and is not there: the wrong one comes first
    assert lvis_table((1,), ()) == pytest.approx([0.5, 0.5])
    # not every 0 is annotated: the unmatched one may be right, and does not count
    assert lvis_table((), (0,)) == pytest.approx([1.0, 1.0])
    # the same of an absent class has no meaning in LVIS, and is excused as well
    assert lvis_table((1,), (1,)) == pytest.approx([0.5, 1.0])


def test_lvis_counts_the_best_three_hundred_of_an_image() -> None:
    metric = AveragePrecision(3)
    masks, labels = squares(*[10] * 300, 0), torch.tensor([0])
    scores = torch.linspace(0.9, 0.1, 301).tolist()
    prediction = found(masks, [1] * 300 + [0], scores)  # the right one is the 301st
    metric.update(prediction, squares(0), labels, labels > 0, absent=())
    assert metric.compute(GROUPS).ap50[0] == 0.0
    one_less = AveragePrecision(3)
    prediction = found(masks[1:], [1] * 299 + [0], scores[1:])
    one_less.update(prediction, squares(0), labels, labels > 0, absent=())
    assert one_less.compute(GROUPS).ap50[0] == 1.0
