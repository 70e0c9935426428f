"""Cosine logits, synonyms and the background word."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ovseg_cli.classification import (
    Classification,
    class_log_probabilities,
    class_logits,
    class_probabilities,
)
from ovseg_cli.structures import EncodedMasks, Frame, Proposals, TextEmbeddings


def texts(*counts: int, seed: int = 0, background: bool = False) -> TextEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    class_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return TextEmbeddings(
        torch.randn(sum(counts), 5, generator=generator), class_of, has_background=background
    )


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 9))
def test_synonyms_equal_the_loop_over_classes(counts: list[int], seed: int) -> None:
    vocabulary = texts(*counts, seed=seed)
    masks = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed + 1))
    unit = F.normalize(masks, dim=-1)
    groups = vocabulary.embeddings.split(counts)
    mean = torch.stack([unit @ F.normalize(group.mean(0), dim=0) for group in groups], 1)
    best = torch.stack([(unit @ F.normalize(g, dim=-1).T).amax(1) for g in groups], 1)
    torch.testing.assert_close(class_logits(masks, vocabulary), 100 * mean, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        class_logits(masks, vocabulary, synonyms="max"), 100 * best, atol=1e-4, rtol=1e-5
    )


def test_lengths_do_not_count_but_for_the_mean_of_synonyms() -> None:
    vocabulary = texts(1, 1, 1)
    masks = torch.randn(4, 5)
    longer = TextEmbeddings(vocabulary.embeddings * 7, vocabulary.class_of)
    torch.testing.assert_close(class_logits(3 * masks, longer), class_logits(masks, vocabulary))


def test_the_backgrounds_share_is_given_to_nobody() -> None:
    logits = torch.randn(4, 6)
    scores = torch.rand(4)
    probabilities = class_probabilities(logits, has_background=True, object_scores=scores)
    assert probabilities.shape == (4, 5)
    expected = scores * (1 - logits.softmax(-1)[:, -1])
    torch.testing.assert_close(probabilities.sum(-1), expected)


def test_without_background_probabilities_sum_to_one() -> None:
    probabilities = class_probabilities(torch.randn(4, 6), has_background=False)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4))


def test_an_object_score_of_zero_stays_finite_in_log_space() -> None:
    log_probabilities = class_log_probabilities(
        torch.tensor([[400.0, 0.0]]), has_background=False, object_scores=torch.zeros(1)
    )
    assert torch.isfinite(log_probabilities).all()
    assert class_probabilities(
        torch.zeros(1, 2), has_background=False, object_scores=torch.zeros(1)
    ).max() == pytest.approx(0, abs=1e-30)


def test_a_vocabulary_of_thousands_is_classified() -> None:
    vocabulary = texts(*([2] * 5000))
    assert class_logits(torch.randn(100, 5), vocabulary, synonyms="max").shape == (100, 5000)


@pytest.mark.parametrize("object_score", [True, False])
def test_a_recipes_classification_uses_scores_and_validity(object_score: bool) -> None:
    vocabulary = texts(1, 2, 1, background=True)
    logits = torch.randn(3, 4, 4)
    valid = torch.tensor([True, True, False])
    encoded = EncodedMasks(torch.randn(3, 5), logits, valid)
    proposals = Proposals(logits, Frame((16, 16), (16, 16), (16, 16)), torch.rand(3))
    found = Classification(object_score=object_score).probabilities(encoded, proposals, vocabulary)
    expected = class_logits(encoded.embeddings, vocabulary).softmax(-1)[:, :-1]
    if object_score:
        expected = expected * proposals.scores[:, None]
    torch.testing.assert_close(found[:2], expected[:2])
    assert found[2].max() == 0
