"""The batches of MasQ-Tuning: images, the patches that each mask's token sees, and labels.

MasQCLIP (Xu et al., ICCV 2023), section 3.3; labels as in the released code. Proposer and CLIP are
frozen, so where an image always looks the same its patches and labels are worked out once and kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ovseg_cli.datasets.augmentation import flipped
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.losses.classification import IGNORED, assign_labels
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.proposers import Proposer, TrainableProposer
from ovseg_cli.stages.masq_options import MasqOptions
from ovseg_cli.stages.training_images import TrainingImages
from ovseg_cli.structures import Frame, FramedImage, Proposals, Sample, Vocabulary


class Batch(NamedTuple):
    """Images with the masks to classify.

    Attributes:
        images: RGB, 0 to 255.
        visible: the patches that each mask's token sees.
        labels: class indices, the background's last; -100 where an image has fewer masks.
    """

    images: Float[Tensor, "B 3 S S"]
    visible: Bool[Tensor, "B N P"]
    labels: Int[Tensor, "B N"]


class Example(NamedTuple):
    """An image with the masks to classify, see `Batch`."""

    image: Float[Tensor, "3 S S"]
    visible: Bool[Tensor, "N P"]
    labels: Int[Tensor, " N"]


class _Kept(NamedTuple):
    visible: Tensor  # packed bits
    labels: Tensor


class MasqExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated classes that are seen are learned, other annotations left out.
        proposer: frozen; None where only annotated masks are classified.
        encoder: gives the size at which masks are compared and the patches they cover.
        options: the batch, its augmentation, and how masks get labels.
        seed: of order and augmentation.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        proposer: Proposer | None,
        encoder: MaskClassTokens,
        *,
        options: MasqOptions,
        seed: int,
    ) -> None:
        self.dataset, self.proposer, self.encoder = dataset, proposer, encoder
        self.options, self.seed = options, seed
        self.images = TrainingImages(dataset, options, seed=seed)
        self.background, self.label_of = seen_labels(dataset.vocabulary)
        self._kept: dict[tuple[int, bool], _Kept] = {}

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        positions = self.images.positions_at(step)
        if self.options.augmentation == "squash":
            examples = [self.example(*self.drawn(position)) for position in positions]
        else:
            examples = self.jittered_examples(positions)
        images, visible, labels = zip(*examples, strict=True)
        return Batch(
            torch.stack(images),
            pad_sequence(list(visible), batch_first=True, padding_value=False),
            pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
        )

    def drawn(self, position: int) -> tuple[int, bool]:
        """Which image stands at a position of the endless sequence, and whether mirrored."""
        indices = self.images.indices
        epoch, place = divmod(position, len(indices))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(indices), generator=generator)
        mirrored = torch.rand(len(indices), generator=generator) < 0.5
        return indices[int(order[place])], self.options.flip and bool(mirrored[place])

    def example(self, index: int, mirrored: bool) -> Example:
        """A squashed image, whose masks are examined the first time alone.

        Args:
            index: the image's in the dataset.
            mirrored: whether it is.
        """
        size, side = self.options.image_size, self.encoder.clip.visual.grid_size[0]
        image = square(self.dataset.image(index), size, mirrored)
        key = (index, mirrored)
        if key not in self._kept:
            sample = self.dataset[index]
            sample = flipped(sample) if mirrored else sample
            ((visible, labels),) = self._examine(image[None], [sample])
            self._kept[key] = _Kept(packed(visible), labels.to(torch.int16))
        kept = self._kept[key]
        return Example(image, unpacked(kept.visible, side**2), kept.labels.long())

    def jittered_examples(self, positions: Sequence[int]) -> list[Example]:
        """Images scaled, cropped and padded at random, and what becomes of their masks.

        Args:
            positions: in the endless sequence; each decides its image's augmentation.
        """
        samples = [
            self.images.augmented(self.drawn(position)[0], position) for position in positions
        ]
        images = torch.stack([sample.image for sample in samples]).float()
        examined = self._examine(images, samples)
        return [Example(image, *masks) for image, masks in zip(images, examined, strict=True)]

    @torch.no_grad()
    def _examine(self, images: Tensor, samples: Sequence[Sample]) -> list[tuple[Tensor, Tensor]]:
        """Visible patches and labels of each image's masks; the samples lie as the images do."""
        annotated = [self._ground_truth(sample) for sample in samples]
        proposed: list[Proposals | None] = [None] * len(images)
        if self.proposer is not None and self.options.masks != "ground_truth":
            proposed = [*proposals_of(self.proposer, images.to(self.encoder.clip.device))]
        return [self._masks(*pair) for pair in zip(proposed, annotated, strict=True)]

    def _masks(
        self, proposals: Proposals | None, annotated: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        gt_masks, gt_labels = annotated
        visible, labels = [], []
        if proposals is not None:
            visible.append(self.encoder.visible_patches(proposals.mask_logits[None])[0])
            labels.append(self._labels(proposals.mask_logits, gt_masks, gt_labels))
        if self.options.masks != "proposals":
            logits = gt_masks.to(self.encoder.clip.device).float()[None] * 2 - 1
            visible.append(self.encoder.visible_patches(logits)[0])
            labels.append(gt_labels)
        return torch.cat(visible).cpu(), torch.cat(labels).cpu()

    def _labels(self, mask_logits: Tensor, gt_masks: Tensor, gt_labels: Tensor) -> Tensor:
        """The proposals' labels, all background where nothing that is learned is annotated."""
        side, device = self.encoder.clip.resolution, mask_logits.device
        at_clip = F.interpolate(mask_logits[None].float(), (side, side), mode="bilinear")[0]
        gt_at_clip = gt_masks.new_zeros(len(gt_masks), side, side)
        if len(gt_masks):
            gt_at_clip = F.interpolate(gt_masks[None].float(), (side, side), mode="nearest")[0] > 0
        return assign_labels(
            at_clip > 0,
            gt_at_clip.to(device),
            gt_labels.to(device),
            background=self.background,
            overlap=self.options.overlap,
            threshold=self.options.overlap_threshold,
        ).labels.cpu()

    def _ground_truth(self, sample: Sample) -> tuple[Tensor, Tensor]:
        labels = self.label_of[sample.labels]
        learned = ~sample.is_crowd & (labels != IGNORED)
        return sample.masks[learned], labels[learned]


def seen_labels(vocabulary: Vocabulary) -> tuple[int, Int[Tensor, " K"]]:
    """The background's label, and for each class its label among the seen ones, -100 if unseen."""
    seen = torch.tensor(vocabulary.seen or (True,) * len(vocabulary))
    labels = torch.where(seen, seen.cumsum(0) - 1, IGNORED)
    return int(seen.sum()), labels


def proposals_of(proposer: Proposer, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
    """What a proposer finds in images, all at once if it can.

    Args:
        proposer: frozen.
        images: RGB, 0 to 255, without padding, on its device.
    """
    if isinstance(proposer, TrainableProposer):
        return proposer.propose_batch(images)
    size = (images.shape[-2], images.shape[-1])
    frame = Frame(size, size, size)
    return [proposer.propose(FramedImage(image, frame)) for image in images]


def square(image: Tensor, size: int, mirrored: bool) -> Float[Tensor, "3 S S"]:
    """The image as a square of `size` pixels, as published for panoptic training."""
    pixels = image.float()
    if pixels.shape[1:] != (size, size):
        pixels = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)[0]
    return pixels.flip(-1) if mirrored else pixels


def packed(bits: Bool[Tensor, "N P"]) -> UInt8[Tensor, "N _"]:
    """Bits, eight in a byte."""
    padded = F.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
    rows: Tensor = (padded * (1 << torch.arange(8))).sum(-1)
    return rows.to(torch.uint8)


def unpacked(rows: UInt8[Tensor, "N _"], count: int) -> Bool[Tensor, "N P"]:
    """What `packed` packed, `count` bits a row."""
    bits = (rows[..., None].int() >> torch.arange(8)) & 1
    return bits.flatten(1)[:, :count].bool()
