"""The options of MasQ-Tuning, MasQCLIP (Xu et al., ICCV 2023), section 3.3 and supplement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ovseg_cli.device import Precision
from ovseg_cli.recipe import Share
from ovseg_cli.training.loop import LoopOptions
from ovseg_cli.training.optimizer import Decay, adamw, schedule

Masks = Literal["proposals", "ground_truth", "both"]


@dataclass(frozen=True)
class MasqOptions:
    """How to tune; the defaults are the paper's, as released, but for `per_process_mean`.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        image_size: side in pixels of the square training images.
        augmentation: `squash` (mirror and squash, as released for panoptic training), whose
            proposals are worked out once and kept, or `jitter` (large-scale jittering, as released
            for base classes), whose proposals are made anew for every batch and see the grey
            padding too.
        flip: whether every other image is mirrored; `jitter` always does.
        smallest_scale: least scale of `jitter`.
        largest_scale: greatest scale of `jitter`.
        masks: whose masks are classified: the proposer's, the annotated ones, or both.
        overlap: what tells whether a proposal shows an annotated mask.
        overlap_threshold: an overlap above it does.
        background_weight: of proposals that show none, against 1.
        loss_weight: of the cross-entropy.
        per_process_mean: average over each process's proposals, as released, not over everybody's.
        lr: the learning rate.
        weight_decay: decoupled, of queries and position alike.
        decay: of the learning rate: `none`, `step` or `cosine`.
        milestone: the share of the steps before the drop of `step`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        tuned_share: the weights that are kept are this share of the way from where tuning began to
            where it ended; 1 is the end (published), less keeps more of CLIP (WiSE-FT, Wortsman
            et al., CVPR 2022) and needs a mask encoder that begins as CLIP: its init "clip", or
            released keys or values.
    """

    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 4
    image_size: PositiveInt = 1024
    augmentation: Literal["squash", "jitter"] = "squash"
    flip: bool = True
    smallest_scale: PositiveFloat = 0.1
    largest_scale: PositiveFloat = 2.0
    masks: Masks = "proposals"
    overlap: Literal["dice", "iou"] = "dice"
    overlap_threshold: Share = 0.6
    background_weight: NonNegativeFloat = 0.1
    loss_weight: NonNegativeFloat = 2.0
    per_process_mean: bool = False
    lr: NonNegativeFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.05
    decay: Decay = "step"
    milestone: Share = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01
    tuned_share: NonNegativeFloat = 1.0

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
