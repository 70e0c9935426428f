"""Proposers: an image in, class-agnostic masks out."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ..structures import FramedImage, Proposals
from . import mask_rcnn
from .ground_truth import ground_truth_proposals
from .mask2former import ClipMask2Former, Mask2Former
from .mask_rcnn import MaskRcnn


@runtime_checkable
class Proposer(Protocol):
    """What finds masks in an image without knowing their classes."""

    def propose(self, framed: FramedImage) -> Proposals:
        """Masks and object scores of one image."""
        ...


@runtime_checkable
class TrainableProposer(Proposer, Protocol):
    """A proposer that can be trained, on its own proposals too."""

    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Masks and object scores of every image, without gradient.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        ...


LearnedProposer = Mask2Former | ClipMask2Former | MaskRcnn
PROPOSERS: dict[str, Callable[..., LearnedProposer]] = {
    "mask2former": Mask2Former,
    "clip_mask2former": ClipMask2Former,
    "mask_rcnn": MaskRcnn,
}
FREE_OPTIONS: dict[str, tuple[str, ...]] = {  # those that weights do not depend on
    "mask2former": (),
    "clip_mask2former": (),
    "mask_rcnn": mask_rcnn.FREE_OPTIONS,
}

__all__ = [
    "FREE_OPTIONS",
    "PROPOSERS",
    "ClipMask2Former",
    "LearnedProposer",
    "Mask2Former",
    "MaskRcnn",
    "Proposer",
    "TrainableProposer",
    "ground_truth_proposals",
]
