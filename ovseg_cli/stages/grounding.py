"""Grounding scores: an image is asked for the classes that it shows and for no other.

FC-CLIP (Yu et al., NeurIPS 2023), table 7. The released code has none of it: here the words of
other classes are left out before any softmax, as if they had never been given.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import Task
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.scores import Results, Scores
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.structures import Segmentation, Vocabulary

GROUNDED: tuple[Task, ...] = ("panoptic", "semantic")


class Grounding:
    """Panoptic and semantic scores of words that are known to be in the image."""

    def __init__(
        self, segmenter: Segmenter, vocabulary: Vocabulary, *, tasks: tuple[Task, ...]
    ) -> None:
        """Starts empty.

        Args:
            segmenter: what is scored.
            vocabulary: the dataset's classes.
            tasks: that are scored.

        Raises:
            RecipeError: neither panoptic nor semantic is among them.
        """
        self.tasks = tuple(task for task in GROUNDED if task in tasks)
        if not self.tasks:
            raise RecipeError(
                "[evaluate] grounding: is of panoptic and semantic results, and these annotations "
                f"and tasks give {', '.join(tasks)} alone; leave it out"
            )
        self.segmenter, self.vocabulary = segmenter, vocabulary
        self.scores = Scores(vocabulary, tasks=self.tasks)

    def update(self, image: ScoredImage) -> None:
        """Counts an image; one without any annotation asks for nothing.

        Args:
            image: its logits are combined anew.
        """
        present = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        present[image.sample.labels] = True
        if not present.any():
            return
        classes = present.nonzero().flatten()
        device = image.logits.valid.device
        probabilities = self.segmenter.classification.combine(
            image.logits,
            seen=self.segmenter.seen(self.vocabulary),
            classes=present.to(device),
        )
        result = self.segmenter.infer(
            image.encoded,
            probabilities[:, classes.to(device)],
            image.proposals,
            _chosen(self.vocabulary, classes),
            tasks=self.tasks,
        )
        self.scores.update(_relabelled(result, classes), image.sample)

    def compute(self) -> Results:
        """Means by group, for `panoptic` and `semantic`."""
        return self.scores.compute()[0]


def _chosen(vocabulary: Vocabulary, classes: Int[Tensor, " C"]) -> Vocabulary:
    labels = classes.tolist()
    return Vocabulary(
        tuple(vocabulary.names[label] for label in labels),
        tuple(vocabulary.synonyms[label] for label in labels),
        tuple(vocabulary.is_thing[label] for label in labels),
    )


def _relabelled(result: Segmentation, classes: Int[Tensor, " C"]) -> Segmentation:
    """A result on the chosen classes as one on all of them."""
    return replace(
        result,
        segments=tuple(replace(s, label=int(classes[s.label])) for s in result.segments),
        semantic=None if result.semantic is None else classes[result.semantic],
    )
