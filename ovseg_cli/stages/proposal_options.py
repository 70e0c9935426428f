"""The options of training a proposer, by their names in the recipe's section `train_proposals`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ovseg_cli.device import Precision
from ovseg_cli.losses.full_masks import FullMaskCriterion
from ovseg_cli.losses.set_criterion import SetCriterion
from ovseg_cli.recipe import Share
from ovseg_cli.training.loop import LoopOptions
from ovseg_cli.training.optimizer import Decay, adamw, schedule

TEACHER = "teacher"


@dataclass(frozen=True)
class TrainProposalsOptions:
    """How to train; the defaults are Mask2Former's, as MasQCLIP's and FC-CLIP's are trained.

    From `class_weight` on, all but `cached_images` are of Mask2Former's and MaskFormer's losses
    alone; Mask R-CNN's losses all weigh 1. MaskFormer compares whole masks, at no points.

    Attributes:
        name: of the proposals that are made.
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        augmentation: `jitter` (large-scale jittering) or `squash` (mirror and squash).
        image_size: side of the square training images, a multiple of 32.
        smallest_scale: least scale of `jitter`.
        largest_scale: greatest scale of `jitter`.
        backbone_weights: `none`, `imagenet` (torchvision's, or Swin's own) or a file of their
            layout; a proposer on CLIP's features has no such backbone.
        lr: the learning rate.
        backbone_lr_factor: of the learning rate of the backbone, or of a CLIP that learns.
        weight_decay: decoupled; none on norms and embeddings.
        decay: of the learning rate: `none`, `step`, `cosine` or `poly`.
        milestone: the share of the steps before the drop of `step`, or several for several drops.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        class_weight: weight of the class loss, and of the class in matching.
        mask_weight: weight of the masks' cross-entropy (MaskFormer's: of the focal loss), in both.
        dice_weight: weight of the dice loss, in both.
        no_object_weight: weight of unmatched queries in the class loss.
        points: points at which a mask is compared.
        oversample: candidates a point.
        importance: share of the points taken where the mask is least certain.
        normaliser: `global`, or each `process`'s mean as released.
        cached_images: decoded images kept in memory; a set that fits is decoded once.
    """

    name: str = TEACHER
    steps: PositiveInt = 100_000
    batch_size: PositiveInt = 16
    augmentation: Literal["jitter", "squash"] = "jitter"
    image_size: PositiveInt = 1024
    smallest_scale: PositiveFloat = 0.1
    largest_scale: PositiveFloat = 2.0
    backbone_weights: str = "imagenet"
    lr: NonNegativeFloat = 1e-4
    backbone_lr_factor: NonNegativeFloat = 0.1
    weight_decay: NonNegativeFloat = 0.05
    decay: Decay = "none"
    milestone: Share | tuple[Share, ...] = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01
    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.1
    points: PositiveInt = 12544
    oversample: Annotated[float, Field(ge=1)] = 3.0
    importance: Share = 0.75
    normaliser: Literal["global", "process"] = "global"
    cached_images: NonNegativeInt = 0

    def criterion(self) -> SetCriterion:
        """Mask2Former's loss with the options' weights and points."""
        return SetCriterion(
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            no_object_weight=self.no_object_weight,
            points=self.points,
            oversample=self.oversample,
            importance=self.importance,
            normaliser=self.normaliser,
        )

    def full_mask_criterion(self) -> FullMaskCriterion:
        """MaskFormer's loss with the options' weights."""
        return FullMaskCriterion(
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            no_object_weight=self.no_object_weight,
            normaliser=self.normaliser,
        )

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        return LoopOptions(self.steps, gradient_clip=self.gradient_clip, precision=precision)

    def optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW, the backbone at its own rate."""
        factors = {part: self.backbone_lr_factor for part in ("backbone.", "dense.")}
        return adamw(module, lr=self.lr, weight_decay=self.weight_decay, lr_factors=factors)

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rate at each step."""
        return schedule(
            steps=self.steps, warmup=self.warmup, decay=self.decay, milestone=self.milestone
        )
