"""From image and proposals to the semantic map as MAFT's code: CLIP alone, and the ensemble."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from released_maft import framed_of, proposals_of, student_and_teacher, texts_of
from torch import Tensor

from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import ClassifierLogits, class_texts
from ovseg_cli.inference import InferenceOptions, segment, semantic_scores
from ovseg_cli.structures import EncodedMasks, Frame
from ovseg_cli.upsampling import probability_tiles

CASES = pytest.mark.parametrize("path", cases("maft_losses_"))
WEIGHT = 0.3  # of the generator on seen and of CLIP on unseen classes
ALONE = Classification(background=None, object_score=False)
JOINED = replace(ALONE, ensemble="product", alpha=1 - WEIGHT, beta=WEIGHT)


def seen_of(tensors: dict[str, Tensor]) -> Tensor:
    return tensors["input.trainable_flag"] > 0.5


def logits_of(
    tensors: dict[str, Tensor], encoded: EncodedMasks, options: Classification
) -> ClassifierLogits:
    """The generator's class logits are handed in, its void's column last."""
    frame = framed_of(tensors, 0).frame
    proposals = proposals_of(tensors, 0, frame)
    logits = options.logits(encoded, proposals, class_texts(texts_of(tensors)))
    return replace(logits, in_vocabulary=tensors["input.pred_logits"][0])


def check(probabilities: Tensor, masks: Tensor, frame: Frame, expected: Tensor) -> None:
    """Scores and map; a case's scores are sums of a hundred masks."""
    scores = torch.zeros_like(expected)
    for region, inside in probability_tiles(masks, frame):
        scores[:, *region] = semantic_scores(probabilities, inside)
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)
    result = segment(
        probabilities,
        masks,
        frame,
        torch.ones(len(expected), dtype=torch.bool),
        tasks=("semantic",),
        options=InferenceOptions(semantic_at="resized"),
    )
    assert result.semantic is not None
    assert (result.semantic != expected.argmax(0)).float().mean() <= 1e-3


@CASES
@pytest.mark.parametrize(
    ("options", "output"),
    [(ALONE, "sem_seg_clip_only_0"), (JOINED, "sem_seg_ensemble03_0")],
    ids=["clip_only", "ensemble"],
)
def test_scores_and_semantic_map_agree(path: Path, options: Classification, output: str) -> None:
    """From the raw image; a mask without a pixel counts where CLIP is the only one to ask."""
    tensors, metadata = load(path)
    framed = framed_of(tensors, 0)
    encoder = student_and_teacher(tensors, metadata, keep_empty=options.ensemble == "none")
    proposals = proposals_of(tensors, 0, framed.frame)
    encoded = encoder.encode(framed, proposals)
    probabilities = options.combine(logits_of(tensors, encoded, options), seen=seen_of(tensors))
    check(probabilities, proposals.mask_logits, framed.frame, tensors[f"output.{output}"])


@CASES
def test_the_ensemble_agrees_from_the_cases_own_embeddings(path: Path) -> None:
    """Masks that have no pixel of probability above a half on the padded image are CLIP's ones."""
    tensors, _ = load(path)
    framed = framed_of(tensors, 0)
    masks, embeddings = tensors["input.pred_masks"][0], tensors["mid.student_mask_embeddings"][0]
    valid = (masks > 0).flatten(1).any(1)
    assert not valid.all()
    encoded = EncodedMasks(embeddings, masks, valid)
    probabilities = JOINED.combine(logits_of(tensors, encoded, JOINED), seen=seen_of(tensors))
    check(probabilities, masks, framed.frame, tensors["output.sem_seg_ensemble03_0"])


@CASES
def test_corners_on_corners_is_what_agrees(path: Path) -> None:
    """Upsampled as everything else is, the masks lie half a cell away and the scores differ."""
    tensors: dict[str, Any] = load(path)[0]
    framed = framed_of(tensors, 0)
    masks, embeddings = tensors["input.pred_masks"][0], tensors["mid.student_mask_embeddings"][0]
    encoded = EncodedMasks(embeddings, masks, torch.ones(len(masks), dtype=torch.bool))
    probabilities = ALONE.combine(logits_of(tensors, encoded, ALONE))
    expected = tensors["output.sem_seg_clip_only_0"]
    check(probabilities, masks, framed.frame, expected)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(probabilities, masks, replace(framed.frame, align_corners=False), expected)
