"""The batches of mask-aware fine-tuning: images, the patches of their masks, what these cover.

MAFT (Jiao et al., NeurIPS 2023), section 3.3, targets as released. Proposer and teacher are frozen,
so where an image always looks the same what they say of it is worked out once and kept.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ovseg_cli.datasets.augmentation import flipped, resized
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.losses.mask_aware import ClassOverlaps, soft_iou
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.proposers import Proposer
from ovseg_cli.stages.maft_options import MaftOptions
from ovseg_cli.stages.masq_examples import packed, proposals_of, square, unpacked
from ovseg_cli.stages.pseudo_labels import PseudoLabels
from ovseg_cli.stages.training_images import TrainingImages
from ovseg_cli.structures import Frame, FramedImage, Sample

INSIDE = 20.0  # a logit whose probability is 1 in float32
PIXELS = 1 << 24  # of upsampled masks at once: 64 MB


class Batch(NamedTuple):
    """Images with masks and what each of these covers.

    Attributes:
        images: RGB, 0 to 255, squashed to the encoder's input size.
        visible: the patches that each mask's token sees; none where an image has fewer masks.
        overlaps: of each image's masks with its classes.
        taught: the images by the frozen tower.
    """

    images: Float[Tensor, "B 3 S S"]
    visible: Bool[Tensor, "B N P"]
    overlaps: tuple[ClassOverlaps, ...]
    taught: Float[Tensor, "B D"]


class Example(NamedTuple):
    """An image with its masks, see `Batch`."""

    image: Float[Tensor, "3 S S"]
    visible: Bool[Tensor, "N P"]
    overlaps: ClassOverlaps
    taught: Float[Tensor, " D"]


class _Kept(NamedTuple):
    visible: Tensor  # packed bits
    overlaps: ClassOverlaps
    taught: Tensor


class MaftExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated segments that are no crowd are learned.
        proposer: frozen; None where annotated masks are encoded.
        encoder: says which patches masks cover; its frozen tower is the teacher.
        options: the batch, its augmentation, and what masks are to cover.
        seed: of order and augmentation.
        align_corners: whether mask logits lie with corners on corners, as released.
        label_of: for each class of the dataset the label that is learned; None for its own index.
        pseudo_labels: finds masks of further classes; None for the annotated ones alone.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        proposer: Proposer | None,
        encoder: ImageProposals,
        *,
        options: MaftOptions,
        seed: int,
        align_corners: bool = False,
        label_of: Int[Tensor, " K"] | None = None,
        pseudo_labels: PseudoLabels | None = None,
    ) -> None:
        self.dataset, self.proposer, self.encoder = dataset, proposer, encoder
        self.options, self.pseudo_labels = options, pseudo_labels
        self.align_corners = align_corners
        self.label_of = torch.arange(len(dataset.vocabulary)) if label_of is None else label_of
        self.images = TrainingImages(dataset, options, seed=seed)
        self._kept: dict[tuple[int, bool], _Kept] = {}

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        positions = self.images.positions_at(step)
        if self.options.augmentation == "squash":
            examples = [self.squashed_example(position) for position in positions]
        else:
            examples = [self.jittered_example(position) for position in positions]
        images, visible, overlaps, taught = zip(*examples, strict=True)
        return Batch(
            torch.stack(images),
            pad_sequence(list(visible), batch_first=True, padding_value=False),
            overlaps,
            torch.stack(taught),
        )

    def squashed_example(self, position: int) -> Example:
        """A squashed image, whose masks are examined the first time alone.

        Args:
            position: in the endless sequence.
        """
        index, mirrored = self.images.index_at(position), self.images.mirrored_at(position)
        image = square(self.dataset.image(index), self.options.image_size, mirrored)
        framed = self._framed(image)
        shown, key = self.encoder.squashed(framed), (index, mirrored)
        if key not in self._kept:
            sample = self.dataset[index]
            side = (self.options.image_size, self.options.image_size)
            found = self.examined(framed, resized(flipped(sample) if mirrored else sample, side))
            self._kept[key] = _Kept(packed(found.visible), found.overlaps, found.taught)
        kept = self._kept[key]
        visible = unpacked(kept.visible, self.encoder.grid**2)
        return Example(shown, visible, kept.overlaps, kept.taught)

    def jittered_example(self, position: int) -> Example:
        """An image scaled, cropped and padded at random, examined anew.

        Args:
            position: in the endless sequence; it decides the augmentation.
        """
        sample = self.images.augmented(self.images.index_at(position), position)
        return self.examined(self._framed(sample.image.float()), sample)

    @torch.no_grad()
    def examined(self, framed: FramedImage, sample: Sample) -> Example:
        """What proposer and teacher say of an image.

        Args:
            framed: without padding.
            sample: its annotations, which lie as the image does.
        """
        encoder, device = self.encoder, self.encoder.clip.device
        masks, labels = self.targets(sample)
        mask_logits = self._mask_logits(framed, masks)
        likely = encoder.mask_probabilities(mask_logits, framed.frame)
        image = encoder.squashed(framed)
        if self.pseudo_labels is not None:
            more, of_more = self.pseudo_labels.found(image, likely, mask_logits, sample.masks)
            masks, labels = torch.cat([masks, more]), torch.cat([labels, of_more])
        at = framed.frame.padded if self.options.iou_at == "image" else mask_logits.shape[1:]
        overlaps = class_overlaps(
            mask_logits,
            masks.to(device),
            labels.to(device),
            at=(int(at[0]), int(at[1])),
            align_corners=self.align_corners,
        )
        visible, cpu = encoder.visible_patches(likely[None])[0], torch.device("cpu")
        taught = image.new_zeros(encoder.clip.embedding_dim)
        if self.options.distillation_weight:
            taught = encoder.teacher(image[None])[0]
        return Example(image, visible.cpu(), overlaps.to(cpu), taught.cpu())

    def targets(self, sample: Sample) -> tuple[Bool[Tensor, "M H W"], Int[Tensor, " M"]]:
        """The masks that proposals are to cover, and their classes.

        Args:
            sample: of the training image's size.
        """
        there = ~sample.is_crowd & sample.masks.flatten(1).any(1)
        masks, labels = sample.masks[there], self.label_of[sample.labels[there]]
        if self.options.covers == "segment":
            return masks, labels
        classes = labels.unique()
        merged = [masks[labels == label].any(0) for label in classes]
        return (torch.stack(merged) if merged else masks), classes

    def _framed(self, image: Tensor) -> FramedImage:
        size = (image.shape[-2], image.shape[-1])
        return FramedImage(image, Frame(size, size, size, self.align_corners))

    def _mask_logits(self, framed: FramedImage, masks: Tensor) -> Tensor:
        if self.proposer is None:
            return torch.where(masks, INSIDE, -INSIDE).to(self.encoder.clip.device)
        pixels = framed.pixels[None].to(self.encoder.clip.device)
        (proposals,) = proposals_of(self.proposer, pixels)
        return proposals.mask_logits.float()


def class_overlaps(
    mask_logits: Float[Tensor, "N h w"],
    masks: Bool[Tensor, "M H W"],
    labels: Int[Tensor, " M"],
    *,
    at: tuple[int, int],
    align_corners: bool = False,
) -> ClassOverlaps:
    """How proposals cover classes: of several masks of a class the best covered one counts.

    Args:
        mask_logits: proposals.
        masks: annotated, over the same area.
        labels: their classes.
        at: (height, width) at which areas are measured.
        align_corners: whether mask logits lie with corners on corners.
    """
    classes, which = labels.unique(return_inverse=True)
    if not masks.numel() or not mask_logits.numel():
        return ClassOverlaps(mask_logits.new_zeros(len(classes), len(mask_logits)), classes)
    inside = F.adaptive_avg_pool2d(masks.float(), at)
    parts = []
    for some in mask_logits.split(max(1, PIXELS // (at[0] * at[1]))):
        logits = F.interpolate(some[None], at, mode="bilinear", align_corners=align_corners)[0]
        parts.append(soft_iou(inside, logits.sigmoid()))
    iou = torch.cat(parts, dim=1)
    best = iou.new_zeros(len(classes), iou.shape[1])
    return ClassOverlaps(
        best.scatter_reduce(0, which[:, None].expand_as(iou), iou, "amax"), classes
    )
