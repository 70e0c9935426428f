"""Mask2Former in plain PyTorch: class-agnostic, and with class embeddings on CLIP's features."""

from .clip_model import ClipMask2Former
from .mask_decoder import MaskPredictions
from .model import Mask2Former

__all__ = ["ClipMask2Former", "Mask2Former", "MaskPredictions"]
