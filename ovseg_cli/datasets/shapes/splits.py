"""The splits of the synthetic set: annotated scenes, and image-text pairs without masks."""

from dataclasses import dataclass
from typing import Literal

from .scene import Layout


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        name: folder and file names are made of it.
        number: part of each image's seed; never changes.
        layout: how its images are laid out.
        masks: which classes are annotated, if any.
        held_out: whether held-out compositions occur.
        close_up: side in pixels of the close-ups that are taken of the scenes; 0 is none.
    """

    name: str
    number: int
    layout: Layout
    masks: Literal["none", "seen", "all"]
    held_out: bool
    close_up: int = 0


_SCENE = Layout(size=128, things=(2, 6), two_stuffs=0.8)
_WINDOW = Layout(size=64, things=(1, 3), spread=1.0, bare=0.15, two_stuffs=0.5)
_CROP = Layout(size=72, things=(1, 3), spread=0.7, bare=0.2, two_stuffs=0.4)
_EASY = Layout(size=40, things=(1, 1), radius=(12.0, 18.0), spread=0.25, plain=True)

SPLITS = (
    Split("train", 1, _SCENE, "seen", False),
    Split("val", 2, _SCENE, "all", True),
    Split("test", 3, _SCENE, "all", True),
    Split("pairs_easy", 4, _EASY, "none", False),
    Split("pairs_crop", 5, _CROP, "none", False, close_up=40),
    Split("pairs_window", 6, _WINDOW, "none", False),
)
