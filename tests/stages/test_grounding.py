"""Grounding scores: only the classes that an image shows can be named in it."""

from dataclasses import replace

import pytest
import torch
from tiny_clip import tiny_clip

from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import ClassifierLogits
from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import InferenceOptions
from ovseg_cli.mask_encoders import MaskClassTokens
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.grounding import GROUNDED, Grounding
from ovseg_cli.stages.scores import Scores
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals, Sample, Vocabulary

SIZE = (2, 4)
FRAME = Frame(padded=SIZE, resized=SIZE, original=SIZE)
WORDS = ("cat", "dog", "sky")
VOCABULARY = Vocabulary(WORDS, tuple((word,) for word in WORDS), (True, True, False))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    clip = tiny_clip(layers=1)
    return Segmenter(
        None,
        MaskClassTokens(clip),
        clip,
        classification=Classification(background=None),
        inference=InferenceOptions(object_threshold=0.0, overlap_threshold=0.0),
    )


def scored_image(
    masks: torch.Tensor, labels: list[int], found: torch.Tensor, out: torch.Tensor
) -> ScoredImage:
    """An image of annotated masks in which others were found, with these logits."""
    count = len(found)
    sample = Sample(
        torch.zeros(3, *SIZE, dtype=torch.uint8),
        1,
        "a.png",
        masks,
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(masks), dtype=torch.bool),
    )
    valid, scores = torch.ones(count).bool(), torch.ones(count)
    mask_logits = 40 * found.float() - 20
    proposals = Proposals(mask_logits, FRAME, scores)
    return ScoredImage(
        sample,
        torch.zeros(len(masks), dtype=torch.bool),
        FramedImage(torch.zeros(3, *SIZE), FRAME),
        proposals,
        proposals,
        EncodedMasks(torch.zeros(count, 4), mask_logits, valid),
        ClassifierLogits(None, out, False, valid, scores),
    )


def halves() -> torch.Tensor:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, :, :2] = masks[1, :, 2:] = True
    return masks


def test_what_is_not_in_the_image_takes_nothing(segmenter: Segmenter) -> None:
    """The left half is a cat and would be called a dog; grounding asks for cat and sky alone."""
    logits = torch.tensor([[1.0, 5.0, 0.0], [0.0, 0.0, 3.0]])
    image = scored_image(halves(), [0, 2], halves(), logits)
    ordinary = segmenter.infer(
        image.encoded,
        segmenter.classification.combine(image.logits),
        image.proposals,
        VOCABULARY,
    )
    assert [segment.label for segment in ordinary.segments] == [1, 2]
    grounding = Grounding(segmenter, VOCABULARY, tasks=GROUNDED)
    grounding.update(image)
    results = grounding.compute()
    assert set(results) == {"panoptic", "semantic"}
    assert results["panoptic"]["all"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "classes": 2}
    assert results["semantic"]["all"] == {"miou": 1.0, "miou_union": 1.0}


def test_a_mask_of_nothing_that_is_asked_for_takes_pixels_of_another(segmenter: Segmenter) -> None:
    """By hand: one mask over both halves is called cat, IoU 4/8: no match, and half the pixels."""
    whole = torch.ones(1, *SIZE, dtype=torch.bool)
    image = scored_image(halves(), [0, 2], whole, torch.tensor([[3.0, 9.0, 0.0]]))
    grounding = Grounding(segmenter, VOCABULARY, tasks=GROUNDED)
    grounding.update(image)
    results = grounding.compute()
    assert results["panoptic"]["all"]["pq"] == 0.0
    assert results["semantic"]["all"]["miou"] == pytest.approx((0.5 + 0) / 2)


def test_with_every_class_in_the_image_grounding_is_the_ordinary_score(
    segmenter: Segmenter,
) -> None:
    torch.manual_seed(0)
    columns = torch.arange(SIZE[1])
    masks = torch.stack([columns == 0, columns == 1, columns > 1])[:, None].expand(3, *SIZE)
    image = scored_image(masks, [0, 1, 2], torch.rand(5, *SIZE) > 0.5, torch.randn(5, 3))
    scores = Scores(VOCABULARY, tasks=GROUNDED)
    probabilities = segmenter.classification.combine(image.logits)
    result = segmenter.infer(image.encoded, probabilities, image.proposals, VOCABULARY)
    scores.update(result, image.sample)
    grounding = Grounding(segmenter, VOCABULARY, tasks=GROUNDED)
    grounding.update(image)
    assert grounding.compute() == scores.compute()[0]


def test_an_image_without_annotations_asks_for_nothing(segmenter: Segmenter) -> None:
    image = scored_image(halves()[:0], [], halves(), torch.randn(2, 3))
    grounding = Grounding(segmenter, VOCABULARY, tasks=GROUNDED)
    grounding.update(image)
    assert grounding.compute()["panoptic"]["all"]["pq"] is None


def test_both_classifiers_know_the_present_classes_alone(segmenter: Segmenter) -> None:
    """The absent dog takes no share in the in-vocabulary softmax either, and void keeps its own."""
    torch.manual_seed(0)
    image = scored_image(halves(), [0, 2], halves(), torch.randn(2, 3))
    logits = replace(image.logits, in_vocabulary=torch.tensor([[0.0, 50.0, 0.0, 0.0]] * 2))
    classification = Classification(background=None, ensemble="geometric", alpha=0.0, beta=0.0)
    present = torch.tensor([True, False, True])
    found = classification.combine(logits, seen=present, classes=present)
    assert found == pytest.approx(torch.tensor([[1 / 3, 0.0, 1 / 3]] * 2))


def test_instances_alone_have_no_grounding(segmenter: Segmenter) -> None:
    with pytest.raises(RecipeError, match=r"\[evaluate\] grounding: .* give instance alone"):
        Grounding(segmenter, VOCABULARY, tasks=("instance",))
