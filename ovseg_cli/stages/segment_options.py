"""What `ovseg predict` may ask of a segmenter beside words and tasks."""

from dataclasses import dataclass

from ovseg_cli.errors import UsageError
from ovseg_cli.segmenter.large_images import LEAST_SIDE
from ovseg_cli.segmenter.void import BACKGROUNDS, Background


@dataclass(frozen=True)
class SegmentOptions:
    """Arguments of `Segmenter.predict`, which says what they mean.

    Attributes:
        background: what is void beside what the recipe leaves void.
        score_threshold: instead of the recipe's, 0 to 1.
        tile: the side of windows in pixels; None for the whole image at once.
    """

    background: Background = "none"
    score_threshold: float | None = None
    tile: int | None = None


def segment_options(
    background: str = "none", score_threshold: float | None = None, tile: int | None = None
) -> SegmentOptions:
    """The options, checked.

    Args:
        background: what --background says.
        score_threshold: what --score-threshold says.
        tile: what --tile says.

    Raises:
        UsageError: one of them cannot be used.
    """
    if background not in BACKGROUNDS:
        raise UsageError(f"--background {background}: give {', '.join(BACKGROUNDS)}")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UsageError(f"--score-threshold {score_threshold}: give a number from 0 to 1")
    if tile is not None and tile < LEAST_SIDE:
        raise UsageError(f"--tile {tile}: give {LEAST_SIDE} pixels or more")
    return SegmentOptions(background, score_threshold, tile)
