"""Settings of the ensemble side by side: the network runs once an image.

FC-CLIP (Yu et al., NeurIPS 2023), table 8: arithmetic and geometric ensembles by the weights of the
out-of-vocabulary classifier on seen and on unseen classes.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ovseg_cli.classification import Classification
from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import Task
from ovseg_cli.recipe import Share
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.scores import Results, Scores
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.structures import Vocabulary

SECTION = "evaluate.sweep"
PUBLISHED_WEIGHTS = (
    (0.0, 0.0),
    (1.0, 1.0),
    (0.0, 1.0),
    (1.0, 0.0),
    (0.5, 0.5),
    (0.5, 0.6),
    (0.5, 0.7),
    (0.5, 0.8),
    (0.4, 0.6),
    (0.4, 0.7),
    (0.4, 0.8),
    (0.4, 0.9),
)


@dataclass(frozen=True)
class SweepOptions:
    """The settings to score; the defaults are those of the paper's table 8.

    Attributes:
        ensembles: how both classifiers are joined.
        weights: pairs of `classification.alpha` and `classification.beta`.
        tasks: whose results are scored; each costs its inference once a setting.
    """

    ensembles: tuple[Literal["arithmetic", "geometric", "product", "seen_product"], ...] = (
        "arithmetic",
        "geometric",
    )
    weights: tuple[tuple[Share, Share], ...] = PUBLISHED_WEIGHTS
    tasks: tuple[Task, ...] = ("panoptic",)


class Sweep:
    """The scores of several settings of a segmenter's classification."""

    def __init__(
        self,
        segmenter: Segmenter,
        vocabulary: Vocabulary,
        options: SweepOptions,
        *,
        allowed: tuple[Task, ...],
    ) -> None:
        """Starts empty.

        Args:
            segmenter: what is scored.
            vocabulary: the dataset's classes, which are seen and which are not.
            options: the settings.
            allowed: the tasks that the annotations allow.

        Raises:
            RecipeError: a task that the annotations do not allow, or nothing to sweep over.
        """
        _check(options, allowed)
        self.segmenter, self.vocabulary, self.options = segmenter, vocabulary, options
        self.scores: dict[Classification, Scores] = {
            replace(segmenter.classification, ensemble=ensemble, alpha=alpha, beta=beta): Scores(
                vocabulary, tasks=options.tasks
            )
            for alpha, beta in options.weights
            for ensemble in options.ensembles
        }

    def update(self, image: ScoredImage) -> None:
        """Counts an image under every setting.

        Args:
            image: its logits are combined anew.

        Raises:
            RecipeError: the masks have one classifier, or nothing says which classes were seen.
        """
        if image.logits.in_vocabulary is None:
            raise RecipeError(
                f"[{SECTION}]: these masks have one classifier; name a second one in the "
                "recipe's section in_vocabulary, or sweep without oracle_masks and masks_from"
            )
        seen = self.segmenter.seen(self.vocabulary)
        for classification, scores in self.scores.items():
            result = self.segmenter.infer(
                image.encoded,
                classification.combine(image.logits, seen=seen),
                image.proposals,
                self.vocabulary,
                tasks=self.options.tasks,
            )
            scores.update(result, image.sample)

    def compute(self) -> list[Results]:
        """A row a setting: `ensemble`, `alpha`, `beta`, and `results` as those of `Scores`."""
        return [
            {
                "ensemble": classification.ensemble,
                "alpha": classification.alpha,
                "beta": classification.beta,
                "results": scores.compute()[0],
            }
            for classification, scores in self.scores.items()
        ]


def _check(options: SweepOptions, allowed: tuple[Task, ...]) -> None:
    for name in ("ensembles", "weights", "tasks"):
        if not getattr(options, name):
            raise RecipeError(f"[{SECTION}] {name}: name one at least")
    if not set(options.tasks) <= set(allowed):
        raise RecipeError(
            f"[{SECTION}] tasks: {', '.join(options.tasks)} cannot be scored with these "
            f"annotations; they allow {', '.join(allowed)}"
        )
