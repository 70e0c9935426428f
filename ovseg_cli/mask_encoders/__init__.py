"""Mask encoders: proposals into CLIP's joint space, a file a paper's idea."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals


@runtime_checkable
class MaskEncoder(Protocol):
    """Says what CLIP makes of each proposal of an image."""

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image in CLIP's joint space, in their order, without gradient."""
        ...


MASK_ENCODERS: dict[str, Callable[..., MaskEncoder]] = {"mask_class_tokens": MaskClassTokens}
