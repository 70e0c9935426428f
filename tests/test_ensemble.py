"""The ensemble of two classifiers against probabilities worked out plainly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg_cli.ensemble import (
    ensemble_log_probabilities,
    ensemble_weights,
    product_log_probabilities,
    seen_product_log_probabilities,
)

MEANS = ("geometric", "arithmetic")


def plain(ours: Tensor, clips: Tensor, weights: Tensor, mean: str) -> Tensor:
    """The same in probabilities, a class at a time; for logits that do not underflow."""
    inside, outside = ours[:, :-1].double().softmax(-1), clips.double().softmax(-1)
    not_void = 1 - ours.double().softmax(-1)[:, -1:]
    mixed = torch.empty_like(inside)
    for index, weight in enumerate(weights.double().tolist()):
        if mean == "geometric":
            mixed[:, index] = inside[:, index] ** (1 - weight) * outside[:, index] ** weight
        else:
            mixed[:, index] = (1 - weight) * inside[:, index] + weight * outside[:, index]
    return not_void * mixed / mixed.sum(-1, keepdim=True)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(MEANS),
    st.integers(0, 99),
)
def test_log_space_gives_what_probabilities_give(
    seen: list[bool], alpha: float, beta: float, mean: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = 4 * torch.randn(3, len(seen) + 1, generator=generator)
    clips = 4 * torch.randn(3, len(seen), generator=generator)
    weights = ensemble_weights(torch.tensor(seen), alpha=alpha, beta=beta)
    found = ensemble_log_probabilities(ours, clips, weights[None], mean=mean).exp()
    expected = plain(ours, clips, weights, mean).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(-1), 1 - ours.softmax(-1)[:, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_what_underflows_stays_finite(mean: str, alpha: float, beta: float) -> None:
    """The released code takes logs of probabilities: 0 x -inf made whole rows NaN."""
    ours = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 900.0]])
    clips = torch.tensor([[-300.0, 300.0], [-300.0, 300.0]])
    weights = ensemble_weights(torch.tensor([True, False]), alpha=alpha, beta=beta)[None]
    found = ensemble_log_probabilities(ours, clips, weights, mean=mean)
    assert torch.isfinite(found).all()
    assert (found <= 0).all()


def test_two_classes_by_hand() -> None:
    """In 0.64 and 0.36, out 0.04 and 0.96, void 0.3; weights 0.5 on the seen, 1 on the other.

    Geometric: sqrt(0.64 x 0.04) = 0.16 and 0.96, so 1/7 and 6/7 of 0.7.
    Arithmetic: (0.64 + 0.04) / 2 = 0.34 and 0.96, of 1.3.
    """
    ours = torch.tensor([[0.64 * 0.7, 0.36 * 0.7, 0.3]]).log()
    clips = torch.tensor([[0.04, 0.96]]).log()
    weights = ensemble_weights(torch.tensor([True, False]), alpha=0.5, beta=1.0)[None]
    geometric = ensemble_log_probabilities(ours, clips, weights).exp()
    torch.testing.assert_close(geometric, torch.tensor([[0.1, 0.6]]))
    arithmetic = ensemble_log_probabilities(ours, clips, weights, mean="arithmetic").exp()
    expected = torch.tensor([[0.34 / 1.3 * 0.7, 0.96 / 1.3 * 0.7]])
    torch.testing.assert_close(arithmetic, expected)


@pytest.mark.parametrize("mean", MEANS)
def test_the_ends_are_the_two_classifiers(mean: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, clips = (torch.randn(4, width, generator=generator) for width in (6, 5))
    alone = [
        ensemble_log_probabilities(ours, clips, torch.full((1, 5), weight), mean=mean).exp()
        for weight in (0.0, 1.0)
    ]
    torch.testing.assert_close(alone[0], ours.softmax(-1)[:, :-1])
    not_void = 1 - ours.softmax(-1)[:, -1:]
    torch.testing.assert_close(alone[1], not_void * clips.softmax(-1))


def test_the_product_by_hand() -> None:
    """p = 0.4, 0.1 and void 0.5; q = 0.25, 0.75; the second mask says nothing to the other."""
    ours = torch.tensor([[0.4, 0.1, 0.5]] * 2).log()
    clips = torch.tensor([[0.25, 0.75]] * 2).log()
    weights = torch.tensor([[0.5, 1.0]])
    found = product_log_probabilities(ours, clips, weights, torch.tensor([True, False])).exp()
    expected = torch.tensor([[0.1**0.5, 0.75], [0.4**0.5, 1.0]])
    torch.testing.assert_close(found, expected)


def test_unseen_classes_are_clips_alone_in_the_paper_of_maft() -> None:
    """By hand: lambda 0.5, so sqrt(0.4 x 0.25) on the seen class and sqrt(0.75) on the other.

    A mask about which CLIP says nothing keeps sqrt(0.4) of the seen class and none of the other.
    """
    ours = torch.tensor([[0.4, 0.1, 0.5]] * 2).log()
    clips = torch.tensor([[0.25, 0.75]] * 2).log()
    seen, valid = torch.tensor([True, False]), torch.tensor([True, False])
    weights = ensemble_weights(seen, alpha=0.5, beta=0.5)[None]
    found = seen_product_log_probabilities(ours, clips, weights, valid, seen).exp()
    expected = torch.tensor([[0.1**0.5, 0.75**0.5], [0.4**0.5, 0.0]])
    torch.testing.assert_close(found, expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_both_forms_of_maft_agree_on_seen_classes_and_where_clip_has_all_the_weight(
    seen: list[bool], weight: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randn(3, len(seen) + 1, generator=generator)
    clips, valid = torch.randn(3, len(seen), generator=generator), torch.ones(3).bool()
    known = torch.tensor(seen)
    for beta in (weight, 1.0):
        weights = ensemble_weights(known, alpha=1 - weight, beta=beta)[None]
        released = product_log_probabilities(ours, clips, weights, valid)
        paper = seen_product_log_probabilities(ours, clips, weights, valid, known)
        same = known if beta < 1 else torch.ones_like(known)
        torch.testing.assert_close(paper[:, same], released[:, same])


def test_the_product_of_what_underflows_stays_finite() -> None:
    ours, clips = torch.tensor([[300.0, -300.0, 0.0]]), torch.tensor([[-300.0, 300.0]])
    for weight in (0.0, 0.7, 1.0):
        weights = torch.full((1, 2), weight)
        found = product_log_probabilities(ours, clips, weights, torch.tensor([True]))
        assert torch.isfinite(found).all()
