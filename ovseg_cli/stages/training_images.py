"""The images that a stage learns from: in which order, and how they are augmented."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch

from ovseg_cli.datasets.augmentation import jittered, squashed
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.structures import Sample
from ovseg_cli.training import distributed
from ovseg_cli.training.seeds import seed_of


@runtime_checkable
class ImageOptions(Protocol):
    """What the options of every stage that learns from images say of them."""

    @property
    def batch_size(self) -> int:
        """Images a step, over all processes."""
        ...

    @property
    def augmentation(self) -> Literal["jitter", "squash"]:
        """`jitter` (large-scale jittering) or `squash` (mirror and squash)."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square training images in pixels."""
        ...

    @property
    def smallest_scale(self) -> float:
        """Least scale of `jitter`."""
        ...

    @property
    def largest_scale(self) -> float:
        """Greatest scale of `jitter`."""
        ...


class TrainingImages:
    """A split's annotated images in an endless order of shuffled epochs.

    What stands at a position depends on seed and position alone, so that training can go on from
    any step, with any number of processes.

    Args:
        dataset: images without annotations are left out.
        options: the batch and its augmentation.
        seed: of order and augmentation.
        cached: decoded images kept in memory.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(
        self, dataset: CocoDataset, options: ImageOptions, *, seed: int, cached: int = 0
    ) -> None:
        self.dataset, self.options, self.seed, self.cached = dataset, options, seed, cached
        self.indices = [i for i, record in enumerate(dataset.records) if record.segments]
        if not self.indices:
            raise InputError(
                f"{dataset.name}: no annotated masks of seen classes to learn; use another split"
            )
        self._kept: dict[int, Sample] = {}

    def positions_at(self, step: int) -> Sequence[int]:
        """The positions of a step's images, this process's part of them.

        Args:
            step: the training step.
        """
        share = self.options.batch_size // distributed.world_size()
        first = step * self.options.batch_size + distributed.rank() * share
        return range(first, first + share)

    def samples_at(self, step: int) -> list[Sample]:
        """The augmented images of a step, this process's part of them.

        Args:
            step: the training step.
        """
        return [
            self.augmented(self.index_at(position), position)
            for position in self.positions_at(step)
        ]

    def index_at(self, position: int) -> int:
        """Which of the dataset's images stands at a position.

        Args:
            position: 0 for the first image of the first step.
        """
        epoch, place = divmod(position, len(self.indices))
        order = torch.randperm(len(self.indices), generator=_generator(self.seed, epoch))
        return self.indices[int(order[place])]

    def mirrored_at(self, position: int) -> bool:
        """Whether the image at a position is mirrored.

        Args:
            position: decides the augmentation.
        """
        return bool(torch.rand((), generator=_generator(self.seed, position, 1)) < 0.5)

    def augmented(self, index: int, position: int) -> Sample:
        """An image as it is shown at a position.

        Args:
            index: the image's in the dataset.
            position: decides the augmentation.
        """
        sample, generator = self._sample(index), _generator(self.seed, position, 1)
        if self.options.augmentation == "squash":
            return squashed(sample, self.options.image_size, generator)
        return jittered(
            sample,
            self.options.image_size,
            generator,
            smallest=self.options.smallest_scale,
            largest=self.options.largest_scale,
        )

    def _sample(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        if len(self._kept) < self.cached:
            self._kept[index] = sample
        return sample


def check_shares(section: str, batch_size: int) -> None:
    """Refuses a batch that the processes cannot share out evenly.

    Args:
        section: of the recipe, for the message.
        batch_size: images a step, over all processes.

    Raises:
        RecipeError: it is no multiple of the number of processes.
    """
    processes = distributed.world_size()
    if batch_size % processes:
        raise RecipeError(
            f"[{section}] batch_size: {batch_size} images cannot be shared out among {processes} "
            "processes; choose a multiple"
        )


def check_side(section: str, image_size: int) -> None:
    """Refuses images of a size that proposers cannot take.

    Args:
        section: of the recipe, for the message.
        image_size: side of the square training images in pixels.

    Raises:
        RecipeError: it is no multiple of 32.
    """
    if image_size % 32:
        raise RecipeError(
            f"[{section}] image_size: {image_size} is not a multiple of 32, as the proposer needs"
        )


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))
