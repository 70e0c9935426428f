"""The batches of tuning relative mask attention: images, the proposer's masks, and annotations.

MaskCLIP (Ding et al., ICML 2023), section 4. The proposer is frozen, and is asked anew for every
batch: published training sees each image less than once, so there would be nothing to keep.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovseg_cli.datasets.augmentation import jittered, squashed
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError
from ovseg_cli.losses.set_criterion import MaskTargets, seed_of
from ovseg_cli.proposers import TrainableProposer
from ovseg_cli.stages.rma_options import RmaOptions
from ovseg_cli.structures import Sample
from ovseg_cli.training import distributed


class Batch(NamedTuple):
    """Images with proposals to classify and refine, on the proposer's device.

    Attributes:
        images: RGB, 0 to 255.
        mask_logits: the proposals; an image with fewer than others has empty masks at its end.
        counts: proposals of each image.
        targets: the annotated masks.
    """

    images: Float[Tensor, "B 3 S S"]
    mask_logits: Float[Tensor, "B N h w"]
    counts: tuple[int, ...]
    targets: tuple[MaskTargets, ...]


class RmaExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated segments that are no crowd are learned.
        proposer: frozen.
        options: the batch and its augmentation.
        seed: of order and augmentation.
        device: where the proposer is.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        proposer: TrainableProposer,
        *,
        options: RmaOptions,
        seed: int,
        device: torch.device,
    ) -> None:
        self.dataset, self.proposer, self.options = dataset, proposer, options
        self.seed, self.device = seed, device
        self.indices = [i for i, record in enumerate(dataset.records) if record.segments]
        if not self.indices:
            raise InputError(
                f"{dataset.name}: no annotated masks of seen classes to tune on; use another split"
            )

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        share = self.options.batch_size // distributed.world_size()
        first = step * self.options.batch_size + distributed.rank() * share
        samples = [self.augmented(first + offset) for offset in range(share)]
        images = torch.stack([sample.image for sample in samples]).float().to(self.device)
        proposed = [proposals.mask_logits for proposals in self.proposer.propose_batch(images)]
        counts = tuple(len(mask_logits) for mask_logits in proposed)
        mask_logits = pad_sequence(proposed, batch_first=True, padding_value=-1.0)
        if not mask_logits.shape[1]:
            mask_logits = mask_logits.new_full((share, 1, *mask_logits.shape[2:]), -1.0)
        targets = tuple(self.targets(sample) for sample in samples)
        return Batch(images, mask_logits, counts, targets)

    def augmented(self, position: int) -> Sample:
        """The image at a position in the endless order of shuffled epochs.

        Args:
            position: 0 for the first image of the first step.
        """
        epoch, place = divmod(position, len(self.indices))
        order = torch.randperm(len(self.indices), generator=_generator(self.seed, epoch))
        sample = self.dataset[self.indices[int(order[place])]]
        generator, size = _generator(self.seed, position, 1), self.options.image_size
        if self.options.augmentation == "squash":
            return squashed(sample, size, generator)
        return jittered(
            sample,
            size,
            generator,
            smallest=self.options.smallest_scale,
            largest=self.options.largest_scale,
        )

    def targets(self, sample: Sample) -> MaskTargets:
        """The masks of an image that are learned, on the proposer's device.

        Args:
            sample: lies as the training image does.
        """
        masks = sample.masks[~sample.is_crowd].float().to(self.device)
        labels = sample.labels[~sample.is_crowd].to(self.device)
        return MaskTargets(masks, labels, sample.image_id)


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))
