"""Mask R-CNN as a class-agnostic proposer."""

from .model import MaskRcnn
from .training import AnnotatedMasks

__all__ = ["AnnotatedMasks", "MaskRcnn"]
