"""FreeSeg's proposer, as MAFT is released with: a Mask2Former that reads the words."""

from .model import FREE_OPTIONS, FreeSeg, FreeSegWithWords

__all__ = ["FREE_OPTIONS", "FreeSeg", "FreeSegWithWords"]
