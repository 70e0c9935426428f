"""Results as pictures."""

from .colors import class_color, segment_colors
from .overlays import MIN_INSTANCE_SCORE, overlay

__all__ = ["MIN_INSTANCE_SCORE", "class_color", "overlay", "segment_colors"]
