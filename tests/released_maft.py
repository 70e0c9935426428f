"""The parts of a case of MAFT, both of its towers in an encoder."""

from typing import Any

import torch
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clip.loading import load_weights
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings

SIZE_DIVISOR = 32


def student_and_teacher(
    tensors: dict[str, Tensor], metadata: dict[str, Any], *, keep_empty: bool = True
) -> ImageProposals:
    """The encoder with both of a case's towers; the frozen one is the teacher."""
    clip = tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )
    load_weights(clip.visual, tower_of(tensors, "teacher"), source="the teacher")
    encoder = ImageProposals(
        clip, start_layer=metadata["start_layer"], tuned="maft", keep_empty=keep_empty
    )
    student = {f"visual.{name}": value for name, value in tower_of(tensors, "student").items()}
    encoder.load_tuned_tensors(student, source="the student")
    return encoder


def tower_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """An image tower of a case by open_clip's names."""
    prefix = f"weights.{name}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def framed_of(tensors: dict[str, Tensor], index: int) -> FramedImage:
    """An image of a case as the networks see it, corners on corners."""
    image = tensors[f"input.image_{index}"]
    height, width = image.shape[1:]
    padded = (-(-height // SIZE_DIVISOR) * SIZE_DIVISOR, -(-width // SIZE_DIVISOR) * SIZE_DIVISOR)
    pixels = F.pad(image, (0, padded[1] - width, 0, padded[0] - height))
    size = (height, width)
    return FramedImage(pixels, Frame(padded, size, size, align_corners=True))


def proposals_of(tensors: dict[str, Tensor], index: int, frame: Frame) -> Proposals:
    """The masks of a case; it has class logits and no embeddings."""
    masks = tensors["input.pred_masks"][index]
    return Proposals(masks, frame, torch.ones(len(masks)))


def texts_of(tensors: dict[str, Tensor]) -> TextEmbeddings:
    """A row a class; the one for no object is left out."""
    rows = tensors["input.text_features"]
    return TextEmbeddings(rows, torch.arange(len(rows)))
