"""Mask encoders: proposals into CLIP's joint space, a file a paper's idea."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention
from ovseg_cli.structures import EncodedImage, EncodedMasks, FramedImage, Proposals


@runtime_checkable
class MaskEncoder(Protocol):
    """Says what CLIP makes of each proposal of an image."""

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image in CLIP's joint space, in their order, without gradient."""
        ...


@runtime_checkable
class DenseEncoder(Protocol):
    """Encodes an image for several parts: CLIP's dense features."""

    def encode(self, framed: FramedImage) -> EncodedImage:
        """The features of one image, without gradient."""
        ...


@runtime_checkable
class ReadsDenseFeatures(Protocol):
    """A mask encoder that reads what `dense` makes of the image; None where it shares nothing."""

    @property
    def dense(self) -> DenseEncoder | None:
        """What reads the framed image."""
        ...


@runtime_checkable
class LeavesMasksOut(Protocol):
    """A mask encoder to which scores matter: it looks at none below `least_score`, 0 to 1."""

    least_score: float


@runtime_checkable
class RefinesMasks(Protocol):
    """A mask encoder that can give back better masks than the proposals; `refine` if it does."""

    refine: bool


MASK_ENCODERS: dict[str, Callable[..., MaskEncoder]] = {
    "image_proposals": ImageProposals,
    "mask_class_tokens": MaskClassTokens,
    "mask_pooling": MaskPooling,
    "masked_crops": MaskedCrops,
    "relative_mask_attention": RelativeMaskAttention,
}


@runtime_checkable
class TunedEncoder(Protocol):
    """A mask encoder with tensors of its own, which `tune-clip` makes."""

    def tuned_tensors(self) -> dict[str, Tensor]:
        """What tuning trains, by name."""
        ...

    def load_tuned_tensors(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes what `tuned_tensors` gave; a `CheckpointError` where it does not fit."""
        ...


def tuned_artifact(section: Mapping[str, Any]) -> str | None:
    """The name of the clip artifact that a recipe's mask encoder needs; None where it needs none.

    Args:
        section: the recipe's `mask_encoder`, its name included.
    """
    variant = section.get("variant", "freeze")
    if section["name"] == "mask_class_tokens" and variant != "freeze":
        return "masq" if variant == "q" else f"masq-{variant}"
    if section["name"] == "relative_mask_attention":
        return "rma" if section.get("refine", True) else "rma-unrefined"
    if section["name"] == "masked_crops" and section.get("tuned", "none") != "none":
        return f"ovseg-{section['tuned']}"
    if section["name"] == "image_proposals" and section.get("tuned", "none") != "none":
        return "maft"
    return None
