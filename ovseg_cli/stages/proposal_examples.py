"""The batches of training a proposer: images and their annotated masks, with their classes."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.training_images import TrainingImages


class Batch(NamedTuple):
    """Augmented images and their annotated masks.

    Attributes:
        images: RGB, 0 to 255.
        masks: (M, S, S) of each image, True inside.
        image_ids: of each image.
        labels: (M,) of each image, the masks' classes; empty where they do not matter.
    """

    images: Float[Tensor, "B 3 S S"]
    masks: tuple[Bool[Tensor, "M S S"], ...]
    image_ids: tuple[int, ...]
    labels: tuple[Int[Tensor, " M"], ...] = ()


class ProposalExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated segments that are no crowd are learned.
        options: the batch and its augmentation.
        seed: of order and augmentation.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(self, dataset: CocoDataset, options: TrainProposalsOptions, *, seed: int) -> None:
        self.images = TrainingImages(dataset, options, seed=seed, cached=options.cached_images)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        samples = self.images.samples_at(step)
        images = torch.stack([sample.image for sample in samples]).float()
        masks = tuple(sample.masks[~sample.is_crowd] for sample in samples)
        labels = tuple(sample.labels[~sample.is_crowd] for sample in samples)
        return Batch(images, masks, tuple(sample.image_id for sample in samples), labels)
