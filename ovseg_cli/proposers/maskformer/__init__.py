"""MaskFormer with mask embeddings in CLIP's joint space, as OVSeg proposes masks."""

from .model import FREE_OPTIONS, MaskFormer

__all__ = ["FREE_OPTIONS", "MaskFormer"]
