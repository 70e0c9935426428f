"""The batches of tuning relative mask attention: images, the proposer's masks, and annotations.

MaskCLIP (Ding et al., ICML 2023), section 4. The proposer is frozen, and is asked anew for every
batch: published training sees each image less than once, so there would be nothing to keep.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.proposers import TrainableProposer
from ovseg_cli.stages.rma_options import RmaOptions
from ovseg_cli.stages.training_images import TrainingImages
from ovseg_cli.structures import Sample


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
        self.proposer, self.device = proposer, device
        self.images = TrainingImages(dataset, options, seed=seed)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        samples = self.images.samples_at(step)
        images = torch.stack([sample.image for sample in samples]).float().to(self.device)
        proposed = [proposals.mask_logits for proposals in self.proposer.propose_batch(images)]
        counts = tuple(len(mask_logits) for mask_logits in proposed)
        mask_logits = pad_sequence(proposed, batch_first=True, padding_value=-1.0)
        if not mask_logits.shape[1]:
            mask_logits = mask_logits.new_full((len(samples), 1, *mask_logits.shape[2:]), -1.0)
        targets = tuple(self.targets(sample) for sample in samples)
        return Batch(images, mask_logits, counts, targets)

    def targets(self, sample: Sample) -> MaskTargets:
        """The masks of an image that are learned, on the proposer's device.

        Args:
            sample: lies as the training image does.
        """
        masks = sample.masks[~sample.is_crowd].float().to(self.device)
        labels = sample.labels[~sample.is_crowd].to(self.device)
        return MaskTargets(masks, labels, sample.image_id)
