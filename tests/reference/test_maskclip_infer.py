"""Agreement of encoding, classification and inference with MaskCLIP's released second stage.

The released code resized images by torchvision, which at the version of the cases antialiases and
at the version of the release did not, as this project does not. The image after that is the case's.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.maskclip import import_maskclip
from ovseg_cli.classification import Classification
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.inference import InferenceOptions, instances, panoptic_map, segment
from ovseg_cli.inference import semantic_scores as semantic_scores_of
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals, TextEmbeddings
from ovseg_cli.upsampling import upsample

CASES = pytest.mark.parametrize("path", cases("maskclip_infer_"))


def framed_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> FramedImage:
    """The image padded with zeros to the area that the proposals, at a stride of 4, cover."""
    image = tensors["input.image"]
    height, width = image.shape[1:]
    rows, columns = tensors["input.proposal_masks"].shape[-2:]
    padded = (4 * rows, 4 * columns)
    out_height, out_width = metadata["out_size"]
    frame = Frame(padded, (height, width), (out_height, out_width))
    return FramedImage(F.pad(image, (0, padded[1] - width, 0, padded[0] - height)), frame)


def released(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> RelativeMaskAttention:
    """The case's weights in our modules, through the importer of released files."""
    state = {name[8:]: value for name, value in tensors.items() if name.startswith("weights.")}
    weights = import_maskclip(state, source="the case")
    clip = tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )
    load_weights(clip.visual, weights.visual, source="visual")
    encoder = RelativeMaskAttention(clip, layers=weights.layers)
    encoder.load_tuned_tensors(weights.relative_mask_attention, source="the case")
    return encoder


@CASES
def test_padding_has_the_mean_colour(path: Path) -> None:
    tensors, metadata = load(path)
    encoder, framed = released(tensors, metadata), framed_of(tensors, metadata)
    size = (encoder.clip.resolution, encoder.clip.resolution)
    images = encoder.padded_image(framed)[None]
    found = F.interpolate(images / 255, size, mode="bicubic", antialias=True)
    found = (found - encoder.clip.mean) / encoder.clip.std
    torch.testing.assert_close(found, tensors["mid.clip_image"], atol=2e-4, rtol=1e-4)


@CASES
def test_the_whole_second_stage_agrees(path: Path) -> None:
    """From the image that CLIP sees and the proposals to the three results."""
    tensors, metadata = load(path)
    encoder, frame = released(tensors, metadata), framed_of(tensors, metadata).frame
    images = (tensors["mid.clip_image"] * encoder.clip.std + encoder.clip.mean) * 255
    mask_logits = tensors["input.proposal_masks"]
    with torch.no_grad():
        embeddings, refined = encoder(images, mask_logits)
    embeddings, mask_logits = embeddings[0], refined[-1][0]
    count = len(embeddings)
    encoded = EncodedMasks(embeddings, mask_logits, torch.ones(count, dtype=torch.bool))
    proposals = Proposals(tensors["input.proposal_masks"][0], frame, torch.ones(count))
    rows = tensors["input.text_embeddings"]
    texts = TextEmbeddings(rows, torch.arange(len(rows)), has_background=True)
    scale = 1 / metadata["temperature"]
    logits = class_logits(embeddings, texts, scale=scale)
    torch.testing.assert_close(logits, tensors["mid.pred_logits"][0], atol=2e-2, rtol=1e-4)
    classification = Classification(scale=scale, background="other", object_score=False)
    probabilities = classification.probabilities(encoded, proposals, texts)
    check_results(tensors, metadata, probabilities, mask_logits, frame)


def check_results(
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    probabilities: Tensor,
    mask_logits: Tensor,
    frame: Frame,
) -> None:
    """Semantic scores, panoptic map and instances beside the case's."""
    options = InferenceOptions(
        object_threshold=metadata["object_mask_threshold"],
        overlap_threshold=metadata["overlap_threshold"],
        reject_background=True,
        top_k=metadata["topk"],
    )
    is_thing = torch.zeros(probabilities.shape[1], dtype=torch.bool)
    is_thing[metadata["thing_classes"]] = True
    logits = upsample(mask_logits, frame)
    scores = semantic_scores_of(probabilities, logits.sigmoid())
    torch.testing.assert_close(scores, tensors["output.sem_seg"], atol=1e-3, rtol=1e-4)
    whole = segment(probabilities, mask_logits, frame, is_thing, options=options)
    assert whole.semantic is not None
    assert whole.panoptic is not None
    assert share_of_difference(whole.semantic, tensors["output.sem_seg"].argmax(0)) <= 1e-3
    assert share_of_difference(whole.panoptic, tensors["output.panoptic_seg"].int()) <= 1e-3
    _, segments = panoptic_map(
        probabilities,
        logits.sigmoid(),
        is_thing,
        object_threshold=options.object_threshold,
        overlap_threshold=options.overlap_threshold,
        reject_background=True,
    )
    expected = [(s["id"], s["category_id"], s["isthing"]) for s in metadata["segments_info"]]
    assert [(s.id, s.label, s.is_thing) for s in segments] == expected
    found = instances(probabilities, logits, is_thing, options=options)
    areas = found.masks.flatten(1).sum(1)
    check_same_instances(tensors, found.labels, found.scores, areas, pixels=logits[0].numel())


def share_of_difference(found: Tensor, expected: Tensor) -> float:
    return (found != expected).float().mean().item()


def check_same_instances(
    tensors: dict[str, Tensor], labels: Tensor, scores: Tensor, areas: Tensor, *, pixels: int
) -> None:
    """The same multiset of class, score and area, compared in the order of class and score."""
    names = ("classes", "scores", "mask_area")
    theirs = sorted(zip(*(tensors[f"output.instance_{n}"].tolist() for n in names), strict=True))
    ours = sorted(zip(labels.tolist(), scores.tolist(), areas.tolist(), strict=True))
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    for own, other in zip(ours, theirs, strict=True):
        assert own[1] == pytest.approx(other[1], rel=1e-3, abs=1e-4)
        assert abs(own[2] - other[2]) <= 1e-3 * pixels
