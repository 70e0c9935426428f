"""Agreement of the crop encoder, mask prompts, ensemble and semantic map with OVSeg's code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.ovseg import import_ovseg
from ovseg_cli.classification import Classification
from ovseg_cli.clip.crop_tower import encode_crops, seen_patches
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.cosine_logits import class_texts
from ovseg_cli.inference import InferenceOptions, segment, semantic_scores
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops, boxes_of
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings
from ovseg_cli.upsampling import probability_tiles, upsample

CASES = pytest.mark.parametrize("path", cases("ovseg_"))
CLIP = "clip_adapter.clip_model."


def frame_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Frame:
    height, width = tensors["input.image"].shape[1:]
    divisor = metadata["size_divisibility"]
    padded = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    return Frame(padded, (height, width), tuple(metadata["out_size"]))


def framed_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> FramedImage:
    frame = frame_of(tensors, metadata)
    below, right = (big - small for big, small in zip(frame.padded, frame.resized, strict=True))
    return FramedImage(F.pad(tensors["input.image"], (0, right, 0, below)), frame)


def proposals_of(tensors: dict[str, Tensor], frame: Frame) -> Proposals:
    masks = tensors["input.pred_masks"][0]
    return Proposals(
        masks,
        frame,
        torch.ones(len(masks)),
        embeddings=tensors["input.pred_embeddings"][0],
        no_object=tensors["input.non_object_embedding"][0],
        logit_scale=100.0,
    )


def released(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> MaskedCrops:
    """The case's weights in our modules, through the importer of released files."""
    state = {
        f"{CLIP}visual.{name[8:]}": value
        for name, value in tensors.items()
        if name.startswith("weights.")
    }
    state["clip_adapter.non_object_embedding"] = tensors["input.non_object_embedding"]
    weights = import_ovseg(state, source="the case")
    clip = tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )
    load_weights(clip.visual, weights.visual, source="visual")
    encoder = MaskedCrops(
        clip,
        region="box",
        fill="mean",
        threshold=metadata["mask_thr"],
        tuned="mpt",
        prompts=metadata["mask_prompt_depth"],
    )
    encoder.load_tuned_tensors(weights.mask_prompts, source="prompts")
    return encoder


def masks_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Tensor:
    """Our masks of the valid proposals, on the image."""
    inside = tensors["mid.mask_probs"] > metadata["mask_thr"]
    return inside[inside.flatten(1).any(1)]


@CASES
def test_masks_boxes_and_validity_agree(path: Path) -> None:
    tensors, metadata = load(path)
    framed, encoder = framed_of(tensors, metadata), released(tensors, metadata)
    frame = framed.frame
    at_image = Frame(frame.padded, frame.resized, frame.resized)
    found = upsample(tensors["input.pred_masks"][0], at_image).sigmoid()
    torch.testing.assert_close(found, tensors["mid.mask_probs"], atol=2e-4, rtol=1e-4)
    encoded = encoder.encode(framed, proposals_of(tensors, frame))
    assert torch.equal(encoded.valid, tensors["mid.valid"].bool())
    boxes = boxes_of((found > metadata["mask_thr"])[encoded.valid])
    assert torch.equal(boxes, tensors["mid.boxes_xyxy"].long())


@CASES
def test_regions_agree(path: Path) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata)
    crops = encoder.crops(tensors["input.image"], masks_of(tensors, metadata))
    pixels = (crops.pixels / 255 - encoder.clip.mean) / encoder.clip.std
    torch.testing.assert_close(pixels, tensors["mid.regions"], atol=2e-4, rtol=1e-4)
    different = crops.masks != tensors["mid.region_masks"][:, 0].bool()
    assert different.float().mean() <= 1e-3


@CASES
def test_blocks_and_embeddings_agree(path: Path) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata)
    regions, masks = tensors["mid.regions"], tensors["mid.region_masks"][:, 0].bool()
    visual = encoder.clip.visual
    given: list[Tensor] = []
    for block in visual.transformer.resblocks:  # what enters a block's first norm
        block.ln_1.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        found = encode_crops(visual, regions, masks, encoder.mask_prompts.prompts)
    torch.testing.assert_close(found, tensors["mid.region_embeddings"], atol=2e-4, rtol=1e-4)
    depth, patch = metadata["mask_prompt_depth"], visual.patch_size[0]
    seen = F.pad(seen_patches(masks, patch), (1, 0), value=True)
    for index, entering in enumerate(given[1:]):
        expected = tensors[f"mid.block{index}"]
        if index + 1 < depth:  # prompts have taken the other tokens' place
            entering, expected = entering[seen], expected[seen]
        torch.testing.assert_close(entering, expected, atol=2e-4, rtol=1e-4)


@CASES
def test_the_whole_branch_agrees(path: Path) -> None:
    """From the raw image and the proposals to CLIP's logits."""
    tensors, metadata = load(path)
    framed, encoder = framed_of(tensors, metadata), released(tensors, metadata)
    encoded = encoder.encode(framed, proposals_of(tensors, framed.frame))
    found = encoded.embeddings[encoded.valid]
    torch.testing.assert_close(found, tensors["mid.region_embeddings"], atol=2e-4, rtol=1e-4)
    rows = torch.cat([tensors["input.text_features"], tensors["input.non_object_embedding"]])
    logits = class_texts(TextEmbeddings(rows, torch.arange(len(rows)))).logits(found, 100.0)
    torch.testing.assert_close(logits, tensors["mid.clip_logits"], atol=2e-2, rtol=1e-4)


def classification_of(weight: float) -> Classification:
    """OVSeg's ensemble; a weight of 0 is no ensemble, but CLIP alone."""
    options = {"ensemble": "product", "alpha": weight, "beta": weight} if weight else {}
    return Classification(background=None, object_score=False, **options)


@CASES
def test_the_ensemble_and_the_semantic_map_agree(path: Path) -> None:
    """From the raw image, the proposals and the texts to the map, scores included."""
    tensors, metadata = load(path)
    framed, encoder = framed_of(tensors, metadata), released(tensors, metadata)
    frame, proposals = framed.frame, proposals_of(tensors, framed.frame)
    rows = tensors["input.text_features"]
    texts = TextEmbeddings(rows, torch.arange(len(rows)))
    classification = classification_of(metadata["clip_ensemble_weight"])
    probabilities = classification.probabilities(
        encoder.encode(framed, proposals), proposals, texts
    )
    expected = tensors["output.sem_seg"]
    scores = torch.zeros_like(expected)
    for region, masks in probability_tiles(proposals.mask_logits, frame):
        scores[:, *region] = semantic_scores(probabilities, masks)
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)
    options = InferenceOptions(semantic_at="resized")
    is_thing = torch.ones(len(rows), dtype=torch.bool)
    result = segment(probabilities, proposals.mask_logits, frame, is_thing, options=options)
    assert result.semantic is not None
    assert (result.semantic != expected.argmax(0)).float().mean() <= 1e-3
    assert result.panoptic is not None
