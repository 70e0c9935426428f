"""How often the segmenter's classifier takes a worse version of an annotated mask for the better.

MAFT (Jiao et al., NeurIPS 2023), figure 3; see `mask_sensitivity` for the rules.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ovseg_cli.metrics.class_groups import class_groups
from ovseg_cli.metrics.mask_sensitivity import (
    MaskSensitivity,
    background_heavy,
    compared,
    half_covered,
)
from ovseg_cli.proposers import ground_truth_proposals
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.scores import Results, plain
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.structures import Sample, Vocabulary


class Sensitivity:
    """Annotated masks against two worse versions of each, by their scores for the mask's class."""

    def __init__(self, segmenter: Segmenter, vocabulary: Vocabulary) -> None:
        """Starts empty.

        Args:
            segmenter: names the masks; its proposer has no say.
            vocabulary: the dataset's classes.
        """
        self.segmenter, self.vocabulary = segmenter, vocabulary
        self.metric = MaskSensitivity(len(vocabulary))

    def update(self, image: ScoredImage) -> None:
        """Counts an image; its masks' three versions are classified together.

        Args:
            image: annotated; crowds do not count.
        """
        sample = image.sample
        chosen = ~sample.is_crowd & compared(sample.masks)
        if not chosen.any():
            return
        masks, labels = sample.masks[chosen], sample.labels[chosen]
        versions = _with_masks(
            sample,
            torch.cat(
                [
                    masks,
                    torch.stack([half_covered(mask) for mask in masks]),
                    torch.stack([background_heavy(mask) for mask in masks]),
                ]
            ),
            labels.repeat(3),
        )
        proposals = ground_truth_proposals(versions, image.framed.frame)
        _, probabilities = self.segmenter.classify(image.framed, proposals, self.vocabulary)
        scores = probabilities.cpu().gather(1, versions.labels[:, None])[:, 0]
        good, half, background = scores.chunk(3)
        self.metric.update(good, half, background, labels)

    def compute(self) -> Results:
        """Shares of the masks by group of classes, 0 to 1, None without any."""
        found: Results = plain(self.metric.compute(class_groups(self.vocabulary)))
        return found


def _with_masks(sample: Sample, masks: Tensor, labels: Tensor) -> Sample:
    nobody = torch.zeros(len(masks), dtype=torch.bool)
    return replace(sample, masks=masks, labels=labels, is_crowd=nobody)
