"""How a recipe turns classified masks into results."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt

from ovseg_cli.recipe import Share

Task = Literal["panoptic", "semantic", "instance"]
SemanticAt = Literal["original", "resized"]
TASKS: tuple[Task, ...] = ("panoptic", "semantic", "instance")


@dataclass(frozen=True)
class InferenceOptions:
    """How a recipe turns classified masks into results.

    Attributes:
        object_threshold: a panoptic segment's class probability is above it.
        overlap_threshold: a panoptic segment keeps at least this share of its mask's area.
        reject_background: whether a mask becomes no panoptic segment where its best class has less
            than the classes together leave of one, which is the background's share (MaskCLIP) and
            what an object score takes off.
        top_k: most instances of an image.
        top_k_over: `all` ranks things and stuff together and then drops stuff, as published;
            `things` ranks things alone.
        semantic_at: the size at which the semantic map's mask probabilities are taken: that of the
            `original` image (MasQCLIP), or of the image as `resized` for the networks, whose
            probabilities are then resized (OVSeg, MAFT, FC-CLIP where it makes no other map).
        instance_threshold: an instance's score is at least this.
        semantic_threshold: where the best class's score, the sum over masks of class x mask
            probability, is not above it, the semantic map is void; 0 for a class everywhere.
    """

    object_threshold: float = 0.3
    overlap_threshold: float = 0.3
    reject_background: bool = False
    top_k: PositiveInt = 100
    top_k_over: Literal["all", "things"] = "all"
    semantic_at: SemanticAt = "original"
    instance_threshold: Share = 0.0
    semantic_threshold: Share = 0.0


def checked_tasks(names: Collection[str]) -> tuple[Task, ...]:
    """The tasks of these names, in the order of `TASKS`.

    Args:
        names: some of `TASKS`, not one as a text.

    Raises:
        ValueError: there is no such task.
    """
    if isinstance(names, str) or not set(names) <= set(TASKS):
        raise ValueError(f"tasks {names!r}: a list of some of {', '.join(TASKS)} is needed")
    return tuple(task for task in TASKS if task in names)
