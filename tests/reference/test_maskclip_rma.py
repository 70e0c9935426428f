"""Relative mask attention agrees with the released code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from plain.relative_mask_attention import PlainRelativeMaskAttention
from reference_cases import cases, load
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.maskclip import import_maskclip
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention

CASES = pytest.mark.parametrize("path", cases("maskclip_rma_"))
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


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


def images_of(encoder: RelativeMaskAttention, preprocessed: Tensor) -> Tensor:
    """Images that the encoder's preprocessing makes into the given ones."""
    images: Tensor = (preprocessed * encoder.clip.std + encoder.clip.mean) * 255
    torch.testing.assert_close(encoder.clip.preprocess(images), preprocessed, atol=1e-5, rtol=1e-5)
    return images


def class_logits_of(
    embeddings: Tensor, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> Tensor:
    texts = F.normalize(tensors["input.text_embeddings"], dim=-1)
    return F.normalize(embeddings, dim=-1) @ texts.T / metadata["temperature"]


@CASES
@pytest.mark.parametrize("plain", [False, True])
def test_refined_masks_and_class_logits_agree(path: Path, plain: bool) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata)
    module = PlainRelativeMaskAttention(encoder) if plain else encoder
    given = tensors["input.masks"].clone()
    with torch.no_grad():
        embeddings, masks = module(images_of(encoder, tensors["input.image"]), given)
    assert torch.equal(given, tensors["input.masks"])
    assert len(masks) == len(encoder.layers)
    for layer, refined in zip(encoder.layers, masks, strict=True):
        expected = tensors.get(f"mid.masks_after_block{layer}")
        if expected is not None:
            torch.testing.assert_close(refined, expected, **TOLERANCE)
    torch.testing.assert_close(masks[-1], tensors["output.pred_masks"], **TOLERANCE)
    expected = tensors["mid.ln_post"] @ encoder.clip.visual.proj
    torch.testing.assert_close(embeddings, expected, **TOLERANCE)
    logits = class_logits_of(embeddings, tensors, metadata)
    torch.testing.assert_close(logits, tensors["output.pred_logits"], atol=2e-2, rtol=1e-4)


@CASES
def test_a_case_supervises_the_masks_between_too(path: Path) -> None:
    """The file says where the first refinement is, and it is not the last."""
    tensors, metadata = load(path)
    layers = released(tensors, metadata).layers
    named = [name for name in tensors if name.startswith("mid.masks_after_block")]
    assert len(layers) > 1
    assert f"mid.masks_after_block{layers[0]}" in named
