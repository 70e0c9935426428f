"""What an evaluation scores: its options, and whether they fit together and the annotations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import TASKS, Task
from ovseg_cli.stages.oracle_classes import OracleClasses

Protocol = Literal["generalized", "constrained_base", "constrained_novel"]
TASKS_OF: dict[str, tuple[Task, ...]] = {
    "panoptic": TASKS,
    "instances": ("instance",),
    "semantic": ("semantic",),
}


@dataclass(frozen=True)
class EvaluateOptions:
    """What to score.

    Attributes:
        tasks: any of panoptic, semantic and instance; those that the annotations allow are scored.
        protocol: `generalized` tells all classes apart; `constrained_base` and `constrained_novel`
            those that are seen in training, or unseen, alone: other annotations are void.
        oracle_masks: score with the annotated masks as proposals.
        oracle_classes: score the upper bound that the proposals set, with classes from the
            annotations: `iou` (MAFT's table 7) or `label`, see `oracle_scores`; None for the
            recipe's own classification. CLIP then sees no mask but for `sensitivity`, or to refine
            it, so that neither masks nor crops are named.
        masks_from: score with the masks and object scores of another run directory's proposer, in
            images framed as its recipe says; `artifacts.proposals` names one of its.
        mask_accuracy: also name the annotated masks.
        crop_accuracy: also name square crops of the annotated segments by CLIP alone.
        crop_scale: side of a thing's crop, in longer sides of its box.
        crop_side: pixels at which CLIP sees crops, None for its own size; less is a window, for a
            small CLIP that has learned from windows.
        grounding: also score what is found where the classes that an image shows are all that is
            asked for (FC-CLIP's table 7).
        sensitivity: also count how often a worse version of an annotated mask scores above it, see
            `mask_sensitivity`.
        sweep: also score settings of the ensemble, see `SweepOptions`; `{}` for FC-CLIP's table 8.
        input_sizes: also let CLIP alone classify the masks, seeing images with shorter sides of so
            many pixels (FC-CLIP's table 9); for a mask encoder with an `input_size`.
        images: score the first so many images alone; None for the whole split.
    """

    tasks: tuple[Task, ...] = TASKS
    protocol: Protocol = "generalized"
    oracle_masks: bool = False
    oracle_classes: OracleClasses | None = None
    masks_from: str | None = None
    mask_accuracy: bool = True
    crop_accuracy: bool = True
    crop_scale: PositiveFloat = 1.1
    crop_side: PositiveInt | None = None
    grounding: bool = False
    sensitivity: bool = False
    sweep: dict[str, Any] | None = None
    input_sizes: tuple[PositiveInt, ...] = ()
    images: PositiveInt | None = None


def check_options(options: EvaluateOptions) -> None:
    """Checks that what is asked for fits together.

    Raises:
        RecipeError: two options of which one leaves nothing for the other.
    """
    if options.oracle_masks and options.masks_from is not None:
        raise RecipeError(
            "[evaluate] masks_from: the annotated masks are scored already; set oracle_masks or "
            "masks_from, not both"
        )
    classified = {
        "grounding": options.grounding,
        "sweep": options.sweep is not None,
        "input_sizes": bool(options.input_sizes),
    }
    for name, asked in classified.items():
        if asked and options.oracle_classes is not None:
            raise RecipeError(
                f"[evaluate] {name}: is about the recipe's classification, and oracle_classes "
                "takes its place; set one of the two"
            )


def scored_tasks(kind: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Those of the tasks that annotations allow.

    Args:
        kind: of the annotations, as `TASKS_OF` has it.
        tasks: that are asked for.

    Raises:
        RecipeError: there is none.
    """
    found = tuple(task for task in TASKS_OF[kind] if task in tasks)
    if not found:
        raise RecipeError(
            f"[evaluate] tasks: {', '.join(tasks)} cannot be scored with {kind} "
            f"annotations; they allow {', '.join(TASKS_OF[kind])}"
        )
    return found
