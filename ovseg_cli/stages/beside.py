"""What an evaluation scores beside the three tasks, in the same pass over the images."""

from collections.abc import Callable
from dataclasses import dataclass

from ovseg_cli.recipe import build
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.evaluate_options import TASKS_OF, EvaluateOptions, scored_tasks
from ovseg_cli.stages.grounding import Grounding
from ovseg_cli.stages.input_sizes import InputSizes, segmenters_at
from ovseg_cli.stages.scores import Results
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.stages.sensitivity import Sensitivity
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.sweep import SECTION as SWEEP
from ovseg_cli.stages.sweep import Sweep, SweepOptions
from ovseg_cli.structures import Vocabulary


@dataclass(frozen=True)
class Beside:
    """What was asked for; None is what was not.

    Attributes:
        grounding: scores of the classes that an image shows.
        sensitivity: annotated masks against worse versions of them.
        sweep: settings of the ensemble.
        input_sizes: sizes at which CLIP sees the image.
    """

    grounding: Grounding | None
    sensitivity: Sensitivity | None
    sweep: Sweep | None
    input_sizes: InputSizes | None

    def updates(self) -> list[Callable[[ScoredImage], None]]:
        """What counts an image, one each."""
        parts = (self.grounding, self.sensitivity, self.sweep, self.input_sizes)
        return [part.update for part in parts if part is not None]

    def results(self) -> Results:
        """What stands among the results of the tasks; sweep and sizes are tables of their own."""
        parts = {"grounding": self.grounding, "sensitivity": self.sensitivity}
        return {name: part.compute() for name, part in parts.items() if part is not None}


def beside_of(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    *,
    kind: str,
    settings: Settings,
) -> Beside:
    """What the options ask for, empty.

    Args:
        segmenter: what is scored.
        vocabulary: the dataset's classes, seen or not where that is known.
        options: what to score.
        kind: of the annotations, as `TASKS_OF` has it.
        settings: run directory and recipe of the segmenter.

    Raises:
        RecipeError: an option that cannot be used.
    """
    tasks = scored_tasks(kind, options.tasks)
    sweep, sizes = None, None
    if options.sweep is not None:
        wanted = build(SWEEP, options.sweep, SweepOptions)
        sweep = Sweep(segmenter, vocabulary, wanted, allowed=TASKS_OF[kind])
    if options.input_sizes:
        sized = segmenters_at(options.input_sizes, segmenter, settings.run, settings.recipe)
        sizes = InputSizes(sized, vocabulary, options, tasks=tasks)
    grounding = Grounding(segmenter, vocabulary, tasks=tasks) if options.grounding else None
    sensitivity = Sensitivity(segmenter, vocabulary) if options.sensitivity else None
    return Beside(grounding, sensitivity, sweep, sizes)
