"""Deformable attention as weighted bags, beside the plain `grid_sample` a level."""

import pytest
import torch
from plain.deformable_attention import attended

from ovseg_cli.proposers.mask2former.deformable_attention import (
    DeformableAttention,
    sampled_sums,
    sampling_grid,
)
from ovseg_cli.proposers.mask2former.weighted_bags import gathered_bags, weighted_bags

SIZES = [(2, 3), (4, 6), (8, 12)]
PIXELS = sum(height * width for height, width in SIZES)


@pytest.fixture
def attention() -> DeformableAttention:
    torch.manual_seed(0)
    module = DeformableAttention(16, heads=4, points=2)
    for projection in (module.offsets, module.attention):
        torch.nn.init.normal_(projection.weight, std=0.3)
    return module


def test_bags_give_what_grid_sample_gives(attention):
    queries, features = torch.randn(2, 3, PIXELS, 16)
    grid = sampling_grid(SIZES, heads=4, points=2, like=queries)
    expected = attended(attention, queries, features, SIZES)
    assert torch.allclose(attention(queries, features, grid), expected, atol=1e-5)


def test_points_far_outside_read_zero(attention):
    torch.nn.init.constant_(attention.offsets.bias, 1e4)
    queries, features = torch.randn(2, 1, PIXELS, 16)
    grid = sampling_grid(SIZES, heads=4, points=2, like=queries)
    expected = attended(attention, queries, features, SIZES)
    assert torch.allclose(expected, attention.output.bias.expand_as(expected))
    assert torch.allclose(attention(queries, features, grid), expected, atol=1e-5)


def test_gradients_are_those_of_grid_sample(attention):
    inputs = torch.randn(2, 2, PIXELS, 16)
    wanted = torch.randn(2, PIXELS, 16)
    gradients = []
    for plain in (True, False):
        attention.zero_grad()
        queries, features = (tensor.clone().requires_grad_() for tensor in inputs)
        grid = sampling_grid(SIZES, heads=4, points=2, like=queries)
        output = (
            attended(attention, queries, features, SIZES)
            if plain
            else attention(queries, features, grid)
        )
        (output * wanted).sum().backward()
        parameters = [parameter.grad.clone() for parameter in attention.parameters()]
        gradients.append([queries.grad, features.grad, *parameters])
    for expected, found in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_analytic_gradients_match_numerical_ones():
    torch.manual_seed(0)
    sizes = [(2, 2), (3, 4)]
    pixels = 4 + 12
    value = torch.randn(2, pixels, 6, dtype=torch.float64, requires_grad=True)
    # Away from whole pixels, where a bilinear sample has a kink.
    shape = (2, 2, pixels, 2, 6)
    offsets = torch.randint(-3, 3, shape) + 0.2 + 0.5 * torch.rand(shape)
    offset_x, offset_y = (offset.double().requires_grad_() for offset in offsets)
    weights = torch.rand(2, pixels, 2, 6, dtype=torch.float64, requires_grad=True)
    grid = sampling_grid(sizes, heads=2, points=3, like=value)

    def bags(*inputs: torch.Tensor) -> torch.Tensor:
        return sampled_sums(*inputs, grid)

    assert torch.autograd.gradcheck(bags, (value, offset_x, offset_y, weights), fast_mode=True)


@pytest.mark.parametrize("weighted_bags", [weighted_bags, gathered_bags])
def test_a_bag_is_a_weighted_sum_of_rows(weighted_bags):
    table = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], requires_grad=True)
    indices = torch.tensor([[0, 2], [1, 1]], dtype=torch.int32)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    bags = weighted_bags(table, indices, weights)
    assert bags.tolist() == [[7.0, 70.0], [14.0, 140.0]]
    bags[:, 0].sum().backward()
    assert table.grad.tolist() == [[1.0, 0.0], [7.0, 0.0], [2.0, 0.0]]
    assert weights.grad.tolist() == [[1.0, 3.0], [2.0, 2.0]]


def test_positions_that_are_no_numbers_poison_the_result_and_do_not_crash(attention):
    torch.nn.init.constant_(attention.offsets.bias, float("nan"))
    queries = torch.randn(1, PIXELS, 16)
    output = attention(queries, queries, sampling_grid(SIZES, heads=4, points=2, like=queries))
    assert output.isnan().all()


def test_the_gradients_are_those_of_pytorchs_own_bags_which_other_devices_take():
    torch.manual_seed(0)
    indices = torch.randint(0, 9, (6, 5), dtype=torch.int32)
    wanted = torch.randn(6, 4)
    gradients = []
    for bags in (
        weighted_bags,
        lambda t, i, w: torch.nn.functional.embedding_bag(i, t, per_sample_weights=w, mode="sum"),
    ):
        torch.manual_seed(1)
        table = torch.randn(9, 4, requires_grad=True)
        weights = torch.randn(6, 5, requires_grad=True)
        (bags(table, indices, weights) * wanted).sum().backward()
        gradients.append((table.grad, weights.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
