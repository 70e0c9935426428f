"""A class-agnostic Mask2Former in plain PyTorch."""

from .mask_decoder import MaskPredictions
from .model import Mask2Former

__all__ = ["Mask2Former", "MaskPredictions"]
