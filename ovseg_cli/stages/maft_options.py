"""The options of mask-aware fine-tuning, MAFT (Jiao et al., NeurIPS 2023), section 3.3."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ovseg_cli.clip.parameter_groups import Group
from ovseg_cli.device import Precision
from ovseg_cli.losses.mask_aware import Distance
from ovseg_cli.recipe import Share
from ovseg_cli.training.loop import LoopOptions
from ovseg_cli.training.optimizer import Decay, adamw, schedule


@dataclass(frozen=True)
class MaftOptions:
    """How to tune; the defaults are the released ones, which differ from the paper's where noted.

    Attributes:
        steps: optimizer steps; in the paper 100 on VOC, 1,000 on COCO, 5,000 on ADE20K.
        batch_size: images a step, over all processes.
        image_size: side in pixels of the square training images, which the proposer sees and
            which are squashed to `mask_encoder.input_size` for CLIP.
        augmentation: `jitter` (large-scale jittering, in the place of the released resizing and
            cropping), or `squash` (mirror and squash), whose proposals and overlaps are worked out
            once and kept.
        smallest_scale: least scale of `jitter`.
        largest_scale: greatest scale of `jitter`.
        masks: whose masks are encoded: the proposer's, or the annotated ones themselves.
        covers: what a proposal is to cover: `class` for all that is annotated of a class, as
            published for semantic segmentation, or `segment` for the best of its segments.
        iou_at: where IoU is measured: on the `image`'s pixels, as released, or on the `mask`s'
            own cells, which is cheaper and blurs borders by a cell.
        objective: `mask_aware` (published), or `cross_entropy` of the class that each mask covers
            by more than half: plain tuning, to compare with.
        distance: between a mask's score and its stretched IoU, see `mask_aware_loss`.
        mask_aware_weight: of the objective.
        distillation_weight: of self-distillation; the paper's is 1. At 0 the frozen tower is not
            asked.
        frozen: groups of the image tower's parameters that stay CLIP's, see `parameter_groups`;
            the paper's are conv, cls, pos and mlp.
        start: the name of a tuned clip artifact to begin with, such as `maft`; None for CLIP.
        pseudo_labels: self-training (table 8): what the tower that tuning begins with finds of
            unseen classes, whose words are then known, is learned beside the annotations.
        pseudo_score: a pixel is taken for an unseen class at no lower probability.
        lr: the learning rate.
        weight_decay: decoupled, none on norms; the paper's is 1e-5.
        decay: of the learning rate: `none`, `step`, `cosine` or `poly`.
        milestone: the share of the steps before the drop of `step`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 16
    image_size: PositiveInt = 640
    augmentation: Literal["squash", "jitter"] = "jitter"
    smallest_scale: PositiveFloat = 0.5
    largest_scale: PositiveFloat = 1.5
    masks: Literal["proposals", "ground_truth"] = "proposals"
    covers: Literal["class", "segment"] = "class"
    iou_at: Literal["image", "mask"] = "image"
    objective: Literal["mask_aware", "cross_entropy"] = "mask_aware"
    distance: Distance = "smooth_l1"
    mask_aware_weight: NonNegativeFloat = 1.0
    distillation_weight: NonNegativeFloat = 0.1
    frozen: tuple[Group, ...] = ("conv", "cls", "pos", "pre", "mlp", "proj")
    start: str | None = None
    pseudo_labels: bool = False
    pseudo_score: Share = 0.5
    lr: NonNegativeFloat = 1e-5
    weight_decay: NonNegativeFloat = 1e-4
    decay: Decay = "poly"
    milestone: Share = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01

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
