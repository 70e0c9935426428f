"""Mask R-CNN as a class-agnostic proposer."""

from .model import FREE_OPTIONS, MaskRcnn
from .training import AnnotatedMasks

__all__ = ["FREE_OPTIONS", "AnnotatedMasks", "MaskRcnn"]
