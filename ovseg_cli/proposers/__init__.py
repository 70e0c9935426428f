"""Proposers: an image in, class-agnostic masks out."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ..structures import FramedImage, Proposals, TextEmbeddings
from . import freeseg, mask_rcnn, maskformer
from .folder import FolderMasks
from .freeseg import FreeSeg
from .ground_truth import ground_truth_proposals
from .mask2former import ClipMask2Former, Mask2Former
from .mask_rcnn import MaskRcnn
from .maskformer import MaskFormer
from .sam import SamMasks


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


@runtime_checkable
class ReadsWords(Protocol):
    """What finds masks of the classes that it is told, and is a proposer once it is told."""

    def with_words(self, texts: TextEmbeddings) -> TrainableProposer:
        """The proposer for one vocabulary.

        Args:
            texts: of its classes, from the CLIP of the proposer's training.
        """
        ...


LearnedProposer = Mask2Former | ClipMask2Former | MaskFormer | FreeSeg | MaskRcnn
PROPOSERS: dict[str, Callable[..., LearnedProposer]] = {
    "mask2former": Mask2Former,
    "clip_mask2former": ClipMask2Former,
    "maskformer": MaskFormer,
    "freeseg": FreeSeg,
    "mask_rcnn": MaskRcnn,
}
FREE_OPTIONS: dict[str, tuple[str, ...]] = {  # those that weights do not depend on
    "mask2former": (),
    "clip_mask2former": (),
    "maskformer": maskformer.FREE_OPTIONS,
    "freeseg": freeseg.FREE_OPTIONS,
    "mask_rcnn": mask_rcnn.FREE_OPTIONS,
}
READY_PROPOSERS: dict[str, Callable[..., Proposer]] = {  # without weights in a run directory
    "folder": FolderMasks,
    "sam": SamMasks,
}

__all__ = [
    "FREE_OPTIONS",
    "PROPOSERS",
    "READY_PROPOSERS",
    "ClipMask2Former",
    "FolderMasks",
    "FreeSeg",
    "LearnedProposer",
    "Mask2Former",
    "MaskFormer",
    "MaskRcnn",
    "Proposer",
    "ReadsWords",
    "SamMasks",
    "TrainableProposer",
    "ground_truth_proposals",
]
