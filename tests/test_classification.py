"""Cosine logits, synonyms, the background word, and two classifiers together."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ovseg_cli.classification import Classification, class_log_probabilities, class_probabilities
from ovseg_cli.cosine_logits import ClassifierLogits, class_logits, class_texts
from ovseg_cli.ensemble import ensemble_log_probabilities
from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import panoptic_map
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


def classifier_logits(
    *, background: bool = False, own: bool = True, masks: int = 4, classes: int = 5, seed: int = 0
) -> ClassifierLogits:
    generator = torch.Generator().manual_seed(seed)
    width = classes + background
    return ClassifierLogits(
        3 * torch.randn(masks, classes + 1, generator=generator) if own else None,
        3 * torch.randn(masks, width, generator=generator),
        background,
        torch.arange(masks) != 1,
        torch.rand(masks, generator=generator),
    )


SEEN = torch.tensor([True, False, True, False, False])
FCCLIP = Classification(object_score=False, ensemble="geometric")


@pytest.mark.parametrize("background", [True, False])
def test_without_an_ensemble_the_second_classifier_changes_no_bit(background: bool) -> None:
    logits = classifier_logits(background=background)
    found = Classification().combine(logits)
    expected = class_probabilities(
        logits.out_of_vocabulary, has_background=background, object_scores=logits.object_scores
    )
    assert torch.equal(found, expected * logits.valid[:, None])
    assert torch.equal(found, Classification().combine(replace(logits, in_vocabulary=None)))


def test_the_in_vocabulary_classifier_alone_knows_masks_that_the_other_does_not() -> None:
    logits = classifier_logits(background=True)
    found = Classification(classifier="in_vocabulary", object_score=False).combine(logits)
    torch.testing.assert_close(found, logits.in_vocabulary.softmax(-1)[:, :-1])
    assert not logits.valid.all()


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
@pytest.mark.parametrize("background", [True, False])
def test_equal_weights_at_the_ends_are_one_classifier(mean: str, background: bool) -> None:
    logits = classifier_logits(background=background)
    options = replace(FCCLIP, ensemble=mean)
    inside = replace(options, alpha=0.0, beta=0.0).combine(logits)
    torch.testing.assert_close(inside, logits.in_vocabulary.softmax(-1)[:, :-1])
    outside = replace(options, alpha=1.0, beta=1.0).combine(logits)
    clips = logits.out_of_vocabulary[:, :5].softmax(-1)  # its background is left out
    torch.testing.assert_close(outside, inside.sum(-1, keepdim=True) * clips)


def test_alpha_is_of_seen_and_beta_of_other_classes() -> None:
    logits = classifier_logits()
    weights = torch.tensor([[0.4, 0.8, 0.4, 0.8, 0.8]])
    expected = ensemble_log_probabilities(logits.in_vocabulary, logits.out_of_vocabulary, weights)
    torch.testing.assert_close(FCCLIP.combine(logits, seen=SEEN), expected.exp())
    scored = replace(FCCLIP, object_score=True).combine(logits, seen=SEEN)
    torch.testing.assert_close(scored, expected.exp() * logits.object_scores[:, None])


def test_weights_that_differ_need_to_know_what_was_seen() -> None:
    logits = classifier_logits()
    with pytest.raises(RecipeError, match=r"alpha 0.4 and beta 0.8: .*set vocabulary\.training"):
        FCCLIP.combine(logits)
    equal = replace(FCCLIP, alpha=0.3, beta=0.3)
    torch.testing.assert_close(equal.combine(logits), equal.combine(logits, seen=SEEN))
    paper = replace(equal, ensemble="seen_product")
    with pytest.raises(RecipeError, match=r"seen_product with alpha 0\.3 and beta 0\.3: "):
        paper.combine(logits)


@pytest.mark.parametrize("on_valid", [False, True])
def test_a_mask_that_clip_does_not_see_is_of_no_unseen_class_in_the_paper_of_maft(
    on_valid: bool,
) -> None:
    logits = replace(classifier_logits(), valid=torch.tensor([True, False, True, True]))
    options = replace(FCCLIP, ensemble="seen_product", ensemble_on_valid=on_valid)
    found = options.combine(logits, seen=SEEN)
    assert (found[1, ~SEEN] == 0).all()
    own = logits.in_vocabulary.softmax(-1)[1, :-1][SEEN]
    torch.testing.assert_close(found[1, SEEN], own if on_valid else own**0.6)


def test_gating_leaves_masks_without_features_to_the_in_vocabulary_classifier() -> None:
    logits = classifier_logits()
    ungated = FCCLIP.combine(logits, seen=SEEN)
    gated = replace(FCCLIP, ensemble_on_valid=True).combine(logits, seen=SEEN)
    assert torch.equal(gated[logits.valid], ungated[logits.valid])
    torch.testing.assert_close(gated[1], logits.in_vocabulary.softmax(-1)[1, :-1])
    assert (ungated[1] > 0).all()
    assert not torch.allclose(gated[1], ungated[1])


def test_masks_that_the_in_vocabulary_classifier_does_not_know_are_left_to_the_other() -> None:
    logits = classifier_logits(own=False)
    found = FCCLIP.combine(logits)
    expected = logits.out_of_vocabulary.softmax(-1) * logits.valid[:, None]
    torch.testing.assert_close(found, expected)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.sampled_from(["none", "geometric", "arithmetic"]),
    st.sampled_from(["out_of_vocabulary", "in_vocabulary"]),
    st.booleans(),
)
def test_classes_are_left_out_before_every_softmax(
    chosen: list[bool], ensemble: str, classifier: str, background: bool
) -> None:
    options = Classification(ensemble=ensemble, classifier=classifier)
    logits, kept = classifier_logits(background=background), torch.tensor(chosen)
    found = options.combine(logits, seen=SEEN, classes=kept)
    assert (found[:, ~kept] == 0).all()
    columns = [index for index, keep in enumerate(chosen) if keep]
    alone = ClassifierLogits(
        logits.in_vocabulary[:, [*columns, 5]],
        logits.out_of_vocabulary[:, [*columns, 5] if background else columns],
        background,
        logits.valid,
        logits.object_scores,
    )
    torch.testing.assert_close(found[:, kept], options.combine(alone, seen=SEEN[kept]))
    if all(chosen):
        torch.testing.assert_close(found, options.combine(logits, seen=SEEN))


@pytest.mark.parametrize("background", [True, False])
def test_a_proposers_own_embeddings_are_its_classifier(background: bool) -> None:
    vocabulary = texts(1, 2, 1, background=background)
    generator = torch.Generator().manual_seed(1)
    frame = Frame((16, 16), (16, 16), (16, 16))
    own, void = torch.randn(3, 5, generator=generator), torch.randn(5, generator=generator)
    proposals = Proposals(torch.randn(3, 4, 4), frame, torch.ones(3), own, void, 20.0)
    encoded = EncodedMasks(torch.randn(3, 5), proposals.mask_logits, torch.ones(3).bool())
    options = Classification(scale=50.0, synonyms="max")
    logits = options.logits(encoded, proposals, class_texts(vocabulary, "max"))
    classes = 3 - background
    expected = class_logits(own, vocabulary, scale=20.0, synonyms="max")[:, :classes]
    torch.testing.assert_close(logits.in_vocabulary[:, :-1], expected)
    cosine = F.cosine_similarity(own, void[None])
    torch.testing.assert_close(logits.in_vocabulary[:, -1], 20 * cosine)
    torch.testing.assert_close(
        logits.out_of_vocabulary,
        class_logits(encoded.embeddings, vocabulary, scale=50.0, synonyms="max"),
    )
    assert logits.classes == classes


@pytest.mark.parametrize("background", [True, False])
def test_another_encoders_background_is_the_void(background: bool) -> None:
    vocabulary = texts(1, 2, 1, background=background)
    frame = Frame((16, 16), (16, 16), (16, 16))
    proposals = Proposals(torch.randn(2, 4, 4), frame, torch.ones(2), torch.randn(2, 5))
    encoded, second = (
        EncodedMasks(torch.randn(2, 5), proposals.mask_logits, torch.ones(2).bool())
        for _ in range(2)
    )
    options = Classification(ensemble="geometric", alpha=0.0, beta=0.0)
    found = options.probabilities(encoded, proposals, vocabulary, in_vocabulary=second)
    alone = Classification().probabilities(second, proposals, vocabulary)
    torch.testing.assert_close(found, alone)


def test_no_masks_and_one_class_are_classified() -> None:
    empty = replace(
        classifier_logits(classes=1),
        in_vocabulary=torch.zeros(0, 2),
        out_of_vocabulary=torch.zeros(0, 1),
        valid=torch.zeros(0).bool(),
        object_scores=torch.zeros(0),
    )
    assert FCCLIP.combine(empty, seen=SEEN[:1]).shape == (0, 1)
    assert class_logits(torch.zeros(0, 5), texts(2, 1), synonyms="max").shape == (0, 2)


def test_clips_own_scale_is_taken_up_to_100() -> None:
    learned = Classification(scale="clip")
    assert learned.with_scale_of(14.3).temperature == 14.3
    assert learned.with_scale_of(180.0).temperature == 100.0
    assert Classification(scale=7.0).with_scale_of(14.3).temperature == 7.0
    with pytest.raises(ValueError, match="with_scale_of"):
        _ = learned.temperature


def test_a_mask_is_void_where_the_void_is_likelier_than_every_class() -> None:
    """As released: the best of K+1 columns decides, and the object threshold is 0."""
    logits = classifier_logits(masks=60, classes=5)
    probabilities = FCCLIP.combine(logits, seen=SEEN)
    void = logits.in_vocabulary.softmax(-1)[:, -1:]
    torch.testing.assert_close(probabilities.sum(-1, keepdim=True), 1 - void)
    best = torch.cat([probabilities, void], 1).argmax(-1)
    kept = [
        len(
            panoptic_map(
                row[None],
                torch.full((1, 4, 4), 0.9),
                torch.ones(5).bool(),
                object_threshold=0.0,
                overlap_threshold=0.8,
                reject_background=True,
            )[1]
        )
        for row in probabilities
    ]
    assert kept == (best != 5).int().tolist()
    assert 0 < sum(kept) < 60
