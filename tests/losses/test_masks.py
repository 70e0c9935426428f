import pytest
import torch

from ovseg_cli.losses.masks import (
    binary_cross_entropy,
    dice_loss,
    pairwise_binary_cross_entropy,
    pairwise_dice_loss,
    sampled,
    uncertain_points,
)


def test_a_point_at_a_pixels_centre_reads_the_pixel():
    maps = torch.arange(8.0).view(1, 1, 2, 4)
    points = torch.tensor([[[0.5 / 4, 0.5 / 2], [3.5 / 4, 1.5 / 2]]])  # x, then y
    assert sampled(maps, points).tolist() == [[[0.0, 7.0]]]


def test_a_point_between_two_pixels_reads_their_mean():
    maps = torch.tensor([[[[1.0, 3.0]]]])
    assert sampled(maps, torch.tensor([[[0.5, 0.5]]])).item() == 2.0


def test_the_least_certain_candidates_are_kept_and_the_others_follow():
    mask_logits = torch.tensor([[[9.0, 0.1, -8.0, -0.2]]])
    candidates = torch.tensor([[[0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]]])
    others = torch.tensor([[[0.0, 0.0]]])
    points = uncertain_points(mask_logits, candidates, others, count=2)
    assert sorted(points[0, :2, 0].tolist()) == [0.375, 0.875]
    assert points[0, 2].tolist() == [0.0, 0.0]


def test_dice_of_a_table_worked_by_hand():
    logits = torch.tensor([[100.0, 100.0, -100.0, -100.0]])
    inside = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert dice_loss(logits, inside).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(logits, (logits > 0).float()).item() == pytest.approx(0.0)


def test_every_pair_costs_what_the_pair_alone_costs():
    torch.manual_seed(0)
    logits, inside = torch.randn(3, 20), (torch.rand(4, 20) > 0.5).float()
    for pairwise, alone in (
        (pairwise_binary_cross_entropy, binary_cross_entropy),
        (pairwise_dice_loss, dice_loss),
    ):
        table = pairwise(logits, inside)
        for column, mask in enumerate(inside):
            expected = alone(logits, mask.expand(3, -1))
            assert torch.allclose(table[:, column], expected, atol=1e-5)
