"""The image-proposals encoder agrees with MAFT's released code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from plain.maft import PlainImageProposals
from reference_cases import cases, load
from released_maft import framed_of, student_and_teacher
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.mask_encoders.image_proposals import ImageProposals

ENCODERS = pytest.mark.parametrize("path", cases("maft_ipclip_"))
WHOLE = pytest.mark.parametrize("path", cases("maft_losses_"))
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


def clip_of(metadata: dict[str, Any]) -> ClipEncoder:
    return tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )


def released(tensors: dict[str, Tensor], metadata: dict[str, Any], side: int) -> ImageProposals:
    clip = clip_of(metadata)
    weights = {
        n.removeprefix("weights."): t for n, t in tensors.items() if n.startswith("weights.")
    }
    load_weights(clip.visual, weights, source="the case")
    return ImageProposals(clip, start_layer=metadata["start_layer"], input_size=side)


def images_of(clip: ClipEncoder, normalised: Tensor) -> Tensor:
    """Images that the encoder's normalisation makes into the given ones."""
    return (normalised * clip.std + clip.mean) * 255


@ENCODERS
@pytest.mark.parametrize("plain", [False, True])
def test_embeddings_agree(path: Path, plain: bool) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata, tensors["input.image"].shape[-1])
    module = PlainImageProposals(encoder) if plain else encoder
    images = images_of(encoder.clip, tensors["input.image"])
    with torch.no_grad():
        masks, whole = module(images, tensors["input.masks"])
    torch.testing.assert_close(masks, tensors["output.mask_embeddings"], **TOLERANCE)
    torch.testing.assert_close(whole, tensors["output.global_embedding"], **TOLERANCE)
    torch.testing.assert_close(encoder.teacher(images), whole, **TOLERANCE)


@ENCODERS
def test_what_masks_see_agrees(path: Path) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata, tensors["input.image"].shape[-1])
    seen = encoder.visible_patches(tensors["input.masks"])
    assert ((~seen).float() != tensors["mid.attn_blocked_mask_rows"]).float().mean() <= 1e-3


@ENCODERS
def test_the_tokens_between_agree(path: Path) -> None:
    """What enters a block's first norm is what the block before gave."""
    tensors, metadata = load(path)
    encoder = released(tensors, metadata, tensors["input.image"].shape[-1])
    given: dict[int, list[Tensor]] = {}
    for index, block in enumerate(encoder.clip.visual.transformer.resblocks):
        note = given.setdefault(index, [])
        block.ln_1.register_forward_pre_hook(lambda _, inputs, note=note: note.append(inputs[0]))
    images = images_of(encoder.clip, tensors["input.image"])
    with torch.no_grad():
        encoder.mask_embeddings(images, tensors["input.masks"])
    for index in range(1, metadata["layers"]):
        expected = tensors[f"mid.block{index - 1}"]
        whole = given[index][0]
        if index > metadata["start_layer"]:  # patches and class tokens go to the norm apart
            whole = torch.cat([given[index][1], given[index][0]], dim=1)
        elif index == metadata["start_layer"]:
            whole = torch.cat([given[index][1][:, :1], given[index][0]], dim=1)
        torch.testing.assert_close(whole, expected, **TOLERANCE)


@WHOLE
def test_images_and_proposals_of_any_shape_get_to_the_tower_as_released(path: Path) -> None:
    """From raw images and mask logits at stride 4; the teacher has other weights."""
    tensors, metadata = load(path)
    encoder = student_and_teacher(tensors, metadata)
    framed = [framed_of(tensors, index) for index in range(2)]
    images = torch.stack([encoder.squashed(image) for image in framed])
    masks = torch.stack(
        [
            encoder.mask_probabilities(logits, image.frame)
            for logits, image in zip(tensors["input.pred_masks"], framed, strict=True)
        ]
    )
    of_masks, of_images = encoder(images, masks)
    torch.testing.assert_close(of_masks, tensors["mid.student_mask_embeddings"], **TOLERANCE)
    torch.testing.assert_close(of_images, tensors["mid.student_global"], **TOLERANCE)
    torch.testing.assert_close(encoder.teacher(images), tensors["mid.teacher_global"], **TOLERANCE)
