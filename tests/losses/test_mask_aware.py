import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg_cli.losses.mask_aware import (
    DISTANCES,
    ClassOverlaps,
    mask_aware_loss,
    overlap_cross_entropy,
    soft_iou,
    stretched,
)


def overlaps(iou: list[list[float]], labels: list[int]) -> ClassOverlaps:
    return ClassOverlaps(torch.tensor(iou), torch.tensor(labels))


def test_soft_iou_of_halves_by_hand() -> None:
    """A mask of 2 of 4 pixels; all sure, all half sure, the other half."""
    mask = torch.tensor([[[True, True], [False, False]]])
    likely = torch.stack(
        [
            torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
            torch.full((2, 2), 0.5),
            torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
        ]
    )
    torch.testing.assert_close(soft_iou(mask, likely), torch.tensor([[1.0, 1 / 3, 0.0]]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 5))
def test_soft_iou_is_that_of_every_pair_alone(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, 4, 5, generator=generator) > 0.5
    likely = torch.rand(count, 4, 5, generator=generator)
    found = soft_iou(masks, likely)
    for m, mask in enumerate(masks.float()):
        for n, p in enumerate(likely):
            both = (mask * p).sum()
            expected = both / (mask.sum() + p.sum() - both + 1e-7)
            torch.testing.assert_close(found[m, n], expected)


def test_rows_are_stretched_to_all_of_zero_to_one() -> None:
    found = stretched(torch.tensor([[0.2, 0.4, 0.3], [0.0, 0.1, 0.9]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.5], [0.0, 1 / 9, 1.0]]))


def test_the_loss_by_hand() -> None:
    """Two classes, two proposals, equal logits: every score is 1/2, every target 0 or 1."""
    logits = torch.zeros(1, 2, 2)
    found = mask_aware_loss(logits, [overlaps([[0.1, 0.6]], [1])])
    torch.testing.assert_close(found, torch.tensor(0.5 * 0.5**2))
    for distance, each in {"l1": 0.5, "l2": 0.25, "kl": math.log(2)}.items():
        found = mask_aware_loss(logits, [overlaps([[0.1, 0.6]], [1])], distance=distance)
        torch.testing.assert_close(found, torch.tensor(each))


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_is_least_where_scores_are_the_targets(distance: str) -> None:
    targets = torch.tensor([0.0, 0.3, 1.0])
    assert DISTANCES[distance](targets, targets).abs().max() < 1e-6
    for moved in (0.2, -0.2):
        assert (DISTANCES[distance]((targets + moved).clamp(0, 1), targets) >= -1e-6).all()
        assert DISTANCES[distance]((targets + moved).clamp(0, 1), targets).sum() > 0.01


def test_padding_changes_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(1, 4, 3), torch.randn(1, 2, 3)
    targets = [overlaps(torch.rand(2, 4).tolist(), [0, 2]), overlaps([[0.1, 0.2]], [1])]
    padded = torch.cat([first, torch.cat([second, torch.full((1, 2, 3), 7.0)], dim=1)])
    padded.requires_grad_(True)
    loss = mask_aware_loss(padded, targets)
    alone = [mask_aware_loss(first, targets[:1]), mask_aware_loss(second, targets[1:])]
    torch.testing.assert_close(loss, (8 * alone[0] + 2 * alone[1]) / 10)
    loss.backward()
    assert padded.grad[1, 2:].abs().max() == 0
    assert padded.grad[1, :2].abs().min() > 0


@pytest.mark.parametrize(
    "overlap",
    [
        overlaps([[0.7]], [1]),
        overlaps([[0.2, 0.2, 0.2]], [0]),
        ClassOverlaps(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)),
        ClassOverlaps(torch.zeros(2, 0), torch.tensor([0, 1])),
    ],
)
def test_what_ranks_no_proposals_teaches_nothing(overlap: ClassOverlaps) -> None:
    logits = torch.randn(1, 3, 2, requires_grad=True)
    loss = mask_aware_loss(logits, [overlap])
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_gradients_raise_the_best_proposal_of_a_class_and_lower_the_worst() -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    mask_aware_loss(logits, [overlaps([[0.9, 0.3, 0.0]], [2])]).backward()
    gradient: Tensor = logits.grad[0, :, 2]
    assert gradient[0] < 0 < gradient[2]


def test_cross_entropy_takes_each_proposals_best_class() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [5.0, -5.0]]])
    found = overlap_cross_entropy(logits, [overlaps([[0.8, 0.1, 0.2], [0.3, 0.6, 0.5]], [0, 1])])
    expected = -torch.stack([logits[0, 0].log_softmax(0)[0], logits[0, 1].log_softmax(0)[1]]).mean()
    torch.testing.assert_close(found, expected)
