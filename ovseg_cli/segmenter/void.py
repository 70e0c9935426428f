"""What counts as nothing of what was asked for."""

from dataclasses import replace
from typing import Literal

from ovseg_cli.inference import InferenceOptions

Background = Literal["none", "threshold", "distractors"]
BACKGROUNDS: tuple[Background, ...] = ("none", "threshold", "distractors")
THRESHOLD = 0.3  # MasQCLIP's of panoptic segments


def with_thresholds(
    options: InferenceOptions, background: str, score_threshold: float | None
) -> InferenceOptions:
    """A recipe's thresholds, or those that are asked for in their place.

    Args:
        options: the recipe's.
        background: one of `BACKGROUNDS`; with `threshold` all three results have one.
        score_threshold: 0 to 1; None is the recipe's, with `threshold` that of its panoptic
            segments, but at least `THRESHOLD`.

    Raises:
        ValueError: no such background, or a threshold that is no share.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background {background!r}: one of {', '.join(BACKGROUNDS)} is needed")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold {score_threshold}: a number from 0 to 1 is needed")
    if background == "threshold" and score_threshold is None:
        score_threshold = max(options.object_threshold, THRESHOLD)
    if score_threshold is None:
        return options
    options = replace(options, object_threshold=score_threshold, instance_threshold=score_threshold)
    if background != "threshold":
        return options
    return replace(options, semantic_threshold=score_threshold)
