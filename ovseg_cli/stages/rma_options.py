"""The options of tuning relative mask attention, MaskCLIP (Ding et al., ICML 2023), section 4."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ovseg_cli.device import Precision
from ovseg_cli.losses.set_criterion import SetCriterion
from ovseg_cli.recipe import Share
from ovseg_cli.training.loop import LoopOptions
from ovseg_cli.training.optimizer import Decay, adamw, schedule


@dataclass(frozen=True)
class RmaOptions:
    """How to tune; the defaults are MaskCLIP's, as released, but for `normaliser`.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        image_size: side in pixels of the square training images, a multiple of 32.
        augmentation: `squash` (mirror and squash, as released) or `jitter` (large-scale jittering).
        smallest_scale: least scale of `jitter`.
        largest_scale: greatest scale of `jitter`.
        no_object: the word of masks that show no annotated one; it takes part in the softmax of
            the losses. As released, prediction goes without: `classification.background` null.
        supervision: which masks the annotations teach: as released the final ones, `aliased` once
            for every refinement, or `distinct`, every refinement's own.
        class_weight: weight of the class loss, and of the class in matching.
        mask_weight: weight of the masks' cross-entropy, in both.
        dice_weight: weight of the dice loss, in both.
        no_object_weight: weight of unmatched proposals in the class loss.
        points: points at which a mask is compared.
        oversample: candidates a point.
        importance: share of the points taken where the mask is least certain.
        normaliser: `global` sums of all processes, or each `process`'s mean as released.
        lr: the learning rate.
        weight_decay: decoupled; none on norms.
        decay: of the learning rate: `none`, `step` or `cosine`.
        milestone: the share of the steps before the drop of `step`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
    """

    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 8
    image_size: PositiveInt = 1024
    augmentation: Literal["squash", "jitter"] = "squash"
    smallest_scale: PositiveFloat = 0.1
    largest_scale: PositiveFloat = 2.0
    no_object: str = "other"
    supervision: Literal["aliased", "distinct"] = "aliased"
    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.0
    points: PositiveInt = 12544
    oversample: Annotated[float, Field(ge=1)] = 3.0
    importance: Share = 0.75
    normaliser: Literal["global", "process"] = "global"
    lr: NonNegativeFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.05
    decay: Decay = "none"
    milestone: Share = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01

    def criterion(self) -> SetCriterion:
        """The loss's share of the options; classes are learned once, however many masks."""
        return SetCriterion(
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            no_object_weight=self.no_object_weight,
            points=self.points,
            oversample=self.oversample,
            importance=self.importance,
            normaliser=self.normaliser,
            class_losses="last",
        )

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        return LoopOptions(self.steps, gradient_clip=self.gradient_clip, precision=precision)

    def optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW over what is tuned."""
        return adamw(module, lr=self.lr, weight_decay=self.weight_decay)

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rate at each step."""
        return schedule(
            steps=self.steps, warmup=self.warmup, decay=self.decay, milestone=self.milestone
        )
