"""Proposers: an image in, class-agnostic masks out."""

from typing import Protocol, runtime_checkable

from ..structures import FramedImage, Proposals
from .ground_truth import ground_truth_proposals
from .mask2former import Mask2Former


@runtime_checkable
class Proposer(Protocol):
    """What finds masks in an image without knowing their classes."""

    def propose(self, framed: FramedImage) -> Proposals:
        """Masks and object scores of one image."""
        ...


PROPOSERS = {"mask2former": Mask2Former}

__all__ = ["PROPOSERS", "Mask2Former", "Proposer", "ground_truth_proposals"]
