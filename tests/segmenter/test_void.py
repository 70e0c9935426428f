"""What is void: below a threshold, or won by words that nobody asked for."""

from dataclasses import replace

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.classification import Classification
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.inference import InferenceOptions, segment, semantic_scores
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.segmenter.void import with_thresholds
from ovseg_cli.structures import VOID, Frame, FramedImage, Proposals, Segmentation
from ovseg_cli.upsampling import upsample
from ovseg_cli.vocabulary.distractors import with_distractors
from ovseg_cli.vocabulary.labels import parse_labels

FRAME = Frame((1, 6), (1, 6), (1, 6))
THING = torch.tensor([True, True, True])


def stripes() -> Tensor:
    """Three masks of two pixels each, side by side."""
    masks = torch.full((3, 1, 6), -20.0)
    for number in range(3):
        masks[number, 0, 2 * number : 2 * number + 2] = 20.0
    return masks


def test_what_the_last_classes_win_is_void_in_all_three_results() -> None:
    # two classes and one of void: a sure one, one that void wins, one that nothing is sure of
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.1, 0.5], [0.3, 0.35, 0.2]])
    options = InferenceOptions(object_threshold=0.3)
    result = segment(probabilities, stripes(), FRAME, THING, options=options, void_classes=1)
    assert result.semantic.tolist() == [[0, 0, VOID, VOID, 1, 1]]
    assert result.panoptic.tolist() == [[1, 1, 0, 0, 2, 2]]
    assert [s.label for s in result.segments] == [0, 1]
    assert result.instances.labels.tolist() == [0, 1, 0, 1]
    assert not result.instances.masks[:, 0, 2:4].any()
    without = segment(probabilities, stripes(), FRAME, THING, options=options)
    assert without.semantic.tolist() == [[0, 0, 2, 2, 1, 1]]


def test_what_void_classes_win_is_not_given_to_the_next_best() -> None:
    mask = torch.full((1, 1, 6), 20.0)
    probabilities = torch.tensor([[0.5, 0.4, 0.6]])
    result = segment(probabilities, mask, FRAME, THING, void_classes=1)
    assert (result.semantic == VOID).all()
    assert result.segments == ()
    assert len(result.instances.labels) == 0


def test_the_background_of_the_softmax_is_not_counted_against_a_class_twice() -> None:
    mask = torch.full((1, 1, 6), 20.0)
    probabilities = torch.tensor([[0.4, 0.0, 0.3]])  # 0.3 is the background's, and not 0.6
    options = InferenceOptions(reject_background=True)
    result = segment(probabilities, mask, FRAME, THING, options=options, void_classes=1)
    assert [s.label for s in result.segments] == [0]


@pytest.mark.parametrize("semantic_at", ["original", "resized"])
def test_below_its_threshold_the_semantic_map_is_void(semantic_at: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 4, generator=generator)
    probabilities = torch.rand(5, 7, generator=generator) / 5
    frame = Frame((16, 16), (16, 16), (16, 16))
    options = InferenceOptions(semantic_at=semantic_at)
    plain = segment(probabilities, logits, frame, torch.ones(7).bool(), options=options).semantic
    best = semantic_scores(probabilities, upsample(logits, frame).sigmoid()).amax(0)
    threshold = float(best.median())
    options = replace(options, semantic_threshold=threshold)
    found = segment(probabilities, logits, frame, torch.ones(7).bool(), options=options).semantic
    clear = (best - threshold).abs() > 1e-5
    expected = torch.where(best > threshold, plain, VOID)
    assert torch.equal(found[clear], expected[clear])
    assert 0.4 < (found == VOID).float().mean() < 0.6


@pytest.mark.parametrize(("options", "void", "nothing"), [
    (InferenceOptions(), 0, 0),
    (InferenceOptions(), 1, VOID),
    (InferenceOptions(semantic_threshold=0.1), 0, VOID),
    (InferenceOptions(semantic_threshold=0.1, semantic_at="resized"), 0, VOID),
])  # fmt: skip
def test_an_image_without_masks_is_void_where_anything_can_be(
    options: InferenceOptions, void: int, nothing: int
) -> None:
    empty = torch.zeros(0, 3), torch.zeros(0, 1, 6)
    result = segment(*empty, FRAME, THING, options=options, void_classes=void)
    assert (result.semantic == nothing).all()


def test_instances_below_their_threshold_are_left_out() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.1, 0.5], [0.3, 0.35, 0.2]])
    options = InferenceOptions(instance_threshold=0.4)
    found = segment(probabilities, stripes(), FRAME, THING, options=options).instances
    assert found.labels.tolist() == [0, 2]  # 0.4 times a mask of nearly 1 is below 0.4


def test_the_threshold_asked_for_goes_before_the_recipes() -> None:
    recipe = InferenceOptions(object_threshold=0.0, top_k=7)
    assert with_thresholds(recipe, "none", None) == recipe
    assert with_thresholds(recipe, "distractors", None) == recipe
    both = with_thresholds(recipe, "none", 0.6)
    assert both == replace(recipe, object_threshold=0.6, instance_threshold=0.6)
    assert with_thresholds(recipe, "threshold", 0.6) == replace(both, semantic_threshold=0.6)
    assert with_thresholds(recipe, "threshold", None).semantic_threshold == 0.3
    strict = InferenceOptions(object_threshold=0.8)
    assert with_thresholds(strict, "threshold", None).semantic_threshold == 0.8
    with pytest.raises(ValueError, match="from 0 to 1"):
        with_thresholds(recipe, "none", 1.5)
    with pytest.raises(ValueError, match="background 'distractor': one of none, threshold, dist"):
        with_thresholds(recipe, "distractor", None)


class Blobs:
    """Soft masks all over the padded frame."""

    def propose(self, framed: FramedImage) -> Proposals:
        generator = torch.Generator().manual_seed(1)
        masks = 4 * torch.randn(8, 6, 6, generator=generator)
        return Proposals(masks, framed.frame, torch.linspace(0.6, 1, 8))


def segmenter(**options: object) -> Segmenter:
    clip = tiny_clip()
    return Segmenter(
        Blobs(),
        MaskClassTokens(clip),
        clip,
        framing=FramingOptions(short_side=None, max_side=None),
        classification=Classification(scale=30.0, **options),
        inference=InferenceOptions(object_threshold=0.0),
    )


IMAGE = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8,
                      generator=torch.Generator().manual_seed(2))  # fmt: skip


def voided(result: Segmentation, classes: int) -> tuple[Tensor, Tensor, list[tuple[int, float]]]:
    """A result whose classes from `classes` on are taken out by hand."""
    semantic = result.semantic.where(result.semantic < classes, VOID)
    gone = [s.id for s in result.segments if s.label >= classes]
    panoptic = result.panoptic.where(~torch.isin(result.panoptic, torch.tensor(gone)), 0)
    kept = [(s.label, s.score) for s in result.segments if s.label < classes]
    return semantic, panoptic > 0, kept


@pytest.mark.parametrize("word", [None, "background"])
def test_distractors_are_more_words_whose_share_is_void(word: str | None) -> None:
    words = parse_labels("xylophone,quokka,sky:stuff")
    every = with_distractors(words)
    one = segmenter(background=word)
    found = one.predict(IMAGE, words, background="distractors")
    semantic, panoptic, kept = voided(one.predict(IMAGE, every), len(words))
    assert torch.equal(found.semantic, semantic)
    assert torch.equal(found.panoptic > 0, panoptic)
    assert [(s.label, s.score) for s in found.segments] == kept
    assert (found.semantic == VOID).any()
    assert (found.instances.labels < len(words)).all()
    assert (one.predict(IMAGE, words).semantic != VOID).all()


def test_a_score_threshold_is_the_least_score_that_is_found() -> None:
    one = segmenter()
    usual = one.predict(IMAGE, "dog,cat,sky:stuff")
    half = float(usual.instances.scores.median())
    found = one.predict(IMAGE, "dog,cat,sky:stuff", score_threshold=half)
    assert 0 < len(found.instances.labels) < len(usual.instances.labels)
    assert (found.instances.scores >= half).all()
    assert all(segment.score > half for segment in found.segments)
    assert torch.equal(found.semantic, usual.semantic)
    void = one.predict(IMAGE, "dog,cat,sky:stuff", background="threshold", score_threshold=1.0)
    assert void.segments == ()
    assert (void.semantic == VOID).any()
