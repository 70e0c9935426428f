"""CLIP alone as the classifier of given masks, as the image that it sees grows.

FC-CLIP (Yu et al., NeurIPS 2023), table 9: a vision transformer loses what a ConvNeXt gains.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from ovseg_cli.checkpoints.run_parts import encoder_section, mask_encoder_of
from ovseg_cli.inference import Task
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.evaluate_options import EvaluateOptions
from ovseg_cli.stages.scores import Results, Scores
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.structures import Proposals, Vocabulary


class InputSizes:
    """The scores of a mask encoder at several sizes of the image, on the same masks."""

    def __init__(
        self,
        segmenters: dict[int, Segmenter],
        vocabulary: Vocabulary,
        options: EvaluateOptions,
        *,
        tasks: tuple[Task, ...],
    ) -> None:
        """Starts empty.

        Args:
            segmenters: by input size, see `segmenters_at`.
            vocabulary: the dataset's classes.
            options: whether annotated masks are named, too.
            tasks: that are scored.
        """
        self.segmenters, self.vocabulary, self.options = segmenters, vocabulary, options
        self.tasks = tasks
        self.scores = {size: Scores(vocabulary, tasks=tasks) for size in segmenters}

    def update(self, image: ScoredImage) -> None:
        """Counts an image at every size.

        Args:
            image: its masks are classified anew.
        """
        for size, segmenter in self.segmenters.items():
            proposals = _masks_alone(image.proposals)
            encoded, probabilities = segmenter.classify(image.framed, proposals, self.vocabulary)
            result = segmenter.infer(
                encoded, probabilities, proposals, self.vocabulary, tasks=self.tasks
            )
            self.scores[size].update(result, image.sample)
            labels = image.sample.labels[~image.sample.is_crowd]
            if not self.options.mask_accuracy or not len(labels):
                continue
            if not self.options.oracle_masks:
                _, probabilities = segmenter.classify(image.framed, image.given, self.vocabulary)
            found = probabilities.argmax(-1).cpu()
            self.scores[size].update_named("mask_accuracy", found, labels)

    def compute(self) -> list[Results]:
        """A row a size: `input_size`, and `results` as those of `Scores`."""
        return [
            {"input_size": size, "results": scores.compute()[0]}
            for size, scores in self.scores.items()
        ]


def segmenters_at(
    sizes: Sequence[int], segmenter: Segmenter, run: Run, recipe: Recipe
) -> dict[int, Segmenter]:
    """A segmenter for each size, with CLIP and text embeddings shared and no other classifier.

    Args:
        sizes: pixels of the image's shorter side as CLIP sees it.
        segmenter: that of the recipe.
        run: holds what the mask encoder may have been tuned to.
        recipe: names the mask encoder.

    Raises:
        RecipeError: the mask encoder has no option `input_size`, or cannot be of such a size.
    """
    found = {}
    for size in sizes:
        section = {**encoder_section(recipe), "input_size": size}
        alone = copy.copy(segmenter)
        alone.in_vocabulary = None
        alone.mask_encoder = mask_encoder_of(
            run, recipe, segmenter.clip, device=segmenter.device, section=section
        )
        alone.classification = replace(
            segmenter.classification, ensemble="none", classifier="out_of_vocabulary"
        )
        found[size] = alone
    return found


def _masks_alone(proposals: Proposals) -> Proposals:
    return replace(proposals, embeddings=None, no_object=None, logit_scale=None)
