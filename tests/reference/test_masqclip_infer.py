"""Agreement of classification and inference with MasQCLIP's released second stage."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.masqclip import import_masqclip
from ovseg_cli.classification import Classification, class_log_probabilities
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.inference import (
    InferenceOptions,
    instances,
    panoptic_map,
    segment,
    semantic_scores,
)
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings
from ovseg_cli.upsampling import upsample

CASES = pytest.mark.parametrize("path", cases("masqclip_infer_"))


def frame_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Frame:
    height, width = tensors["input.image"].shape[1:]
    divisor = metadata["size_divisibility"]
    padded = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    return Frame(padded, (height, width), (metadata["out_h"], metadata["out_w"]))


def things_of(tensors: dict[str, Tensor], classes: int) -> Tensor:
    things = torch.zeros(classes, dtype=torch.bool)
    things[tensors["input.thing_classes"].long()] = True
    return things


def options_of(metadata: dict[str, Any]) -> InferenceOptions:
    return InferenceOptions(
        object_threshold=metadata["object_mask_threshold"],
        overlap_threshold=metadata["overlap_threshold"],
        top_k=metadata["topk"],
    )


@CASES
def test_masks_are_upsampled_alike(path: Path) -> None:
    tensors, metadata = load(path)
    found = upsample(tensors["input.proposal_masks"][0], frame_of(tensors, metadata))
    torch.testing.assert_close(found, tensors["mid.mask_logits_final"], atol=2e-4, rtol=1e-4)


@CASES
def test_results_from_its_class_probabilities_agree(path: Path) -> None:
    tensors, metadata = load(path)
    check_results(tensors, metadata, tensors["mid.mask_cls_log"].exp())


def check_results(
    tensors: dict[str, Tensor], metadata: dict[str, Any], probabilities: Tensor
) -> None:
    """Semantic scores, panoptic map and instances beside the case's."""
    frame, options = frame_of(tensors, metadata), options_of(metadata)
    is_thing = things_of(tensors, probabilities.shape[1])
    mask_logits = tensors["input.proposal_masks"][0]
    logits = upsample(mask_logits, frame)
    scores = semantic_scores(probabilities, logits.sigmoid())
    torch.testing.assert_close(scores, tensors["output.sem_seg"], atol=1e-3, rtol=1e-4)
    whole = segment(probabilities, mask_logits, frame, is_thing, options=options)
    check_same_map(whole.semantic, tensors["output.sem_seg"].argmax(0))
    panoptic, segments = panoptic_map(
        probabilities,
        logits.sigmoid(),
        is_thing,
        object_threshold=options.object_threshold,
        overlap_threshold=options.overlap_threshold,
    )
    check_same_map(panoptic, tensors["output.panoptic_seg"].int())
    check_same_map(whole.panoptic, tensors["output.panoptic_seg"].int())
    expected = [
        (entry["id"], entry["category_id"], entry["isthing"]) for entry in metadata["segments_info"]
    ]
    assert [(s.id, s.label, s.is_thing) for s in segments] == expected
    found = instances(probabilities, logits, is_thing, options=options)
    check_same_instances(tensors, found.labels, found.scores, found.masks)


def check_same_map(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert (found != expected).float().mean() <= 1e-3


def check_same_instances(
    tensors: dict[str, Tensor], labels: Tensor, scores: Tensor, masks: Tensor
) -> None:
    """The same multiset of class, score and area, compared in the order of class and score."""
    expected_labels = tensors["output.instance_classes"].long()
    expected_scores = tensors["output.instance_scores"]
    expected_areas = tensors["output.instance_masks"].flatten(1).sum(1)
    found = rows(labels, scores, masks.flatten(1).sum(1))
    expected = rows(expected_labels, expected_scores, expected_areas)
    assert [row[0] for row in found] == [row[0] for row in expected]
    torch.testing.assert_close(
        torch.tensor([row[1] for row in found]),
        torch.tensor([row[1] for row in expected]),
        atol=1e-4,
        rtol=1e-3,
    )
    pixels = masks[0].numel() if len(masks) else 1
    for mine, theirs in zip(found, expected, strict=True):
        assert abs(mine[2] - theirs[2]) <= 1e-3 * pixels


def rows(*columns: Tensor) -> list[tuple[float, ...]]:
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@CASES
def test_the_whole_second_stage_agrees(path: Path) -> None:
    """From the raw image and the proposals to the three results, through our own modules."""
    tensors, metadata = load(path)
    encoder = released(tensors, metadata)
    frame = frame_of(tensors, metadata)
    below, right = (big - small for big, small in zip(frame.padded, frame.resized, strict=True))
    framed = FramedImage(F.pad(tensors["input.image"], (0, right, 0, below)), frame)
    object_scores = tensors["input.proposal_logits"][0].softmax(-1)[:, 0]
    proposals = Proposals(tensors["input.proposal_masks"][0], frame, object_scores)
    rows = tensors["input.text_embeddings"]
    texts = TextEmbeddings(rows, torch.arange(len(rows)), has_background=True)
    encoded = encoder.encode(framed, proposals)
    logits = class_logits(encoded.embeddings, texts)
    log_probabilities = class_log_probabilities(
        logits, has_background=True, object_scores=object_scores
    )
    expected = tensors["mid.mask_cls_log"]
    high = expected > -18  # below, the released code's floor decides
    torch.testing.assert_close(log_probabilities[high], expected[high], atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(log_probabilities.exp(), expected.exp(), atol=1e-4, rtol=1e-3)
    probabilities = Classification().probabilities(encoded, proposals, texts)
    check_results(tensors, metadata, probabilities)


def released(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> MaskClassTokens:
    """The case's weights in our modules, through the importer of released files."""
    state = {name[8:]: value for name, value in tensors.items() if name.startswith("weights.")}
    weights = import_masqclip(state, source="the case")
    clip = tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )
    load_weights(clip.visual, weights.visual, source="visual")
    encoder = MaskClassTokens(clip, variant="q")
    encoder.load_state_dict(weights.mask_class_tokens, strict=False)
    return encoder
