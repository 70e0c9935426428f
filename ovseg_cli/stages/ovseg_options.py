"""The options of tuning CLIP to masked crops, OVSeg (Liang et al., CVPR 2023), section 3.3."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import nn

from ovseg_cli.device import Precision
from ovseg_cli.mining.pairing import Cosine
from ovseg_cli.training.loop import LoopOptions
from ovseg_cli.training.optimizer import Decay, schedule

BETAS = (0.9, 0.98)
EPSILON = 1e-6
PROMPTS = "mask_prompts."


@dataclass(frozen=True)
class OvsegOptions:
    """How to tune; the defaults are those of the released scripts where these are known.

    Attributes:
        steps: optimizer steps; 17,270 are five epochs of 442,117 pairs.
        batch_size: pairs a step, over all processes; the paper says 256 where the scripts have 128.
        start: the clip artifact to begin with, such as `ovseg-finetune` before prompts (published),
            or `ovseg-mpt` before fine-tuning; None for CLIP itself. A `--mode` beside the mask
            encoder's `tuned` begins with CLIP whatever stands here.
        pairs: what is learned: `mined` pairs, annotated masks with their classes' names
            (`ground_truth`), or `both` one after the other.
        captions: mined pairs whose noun stands in the first captions of its image; `all` that were
            mined.
        least_score: mined pairs of a lower cosine are left out; None for no floor.
        masked: whether a crop shows its mask alone, as the mask encoder's `fill` says; False is the
            control that shows what lies around it, too, and has no blank patches.
        least_crop: random crops show at least this share of a mask's box; 1 shows whole boxes.
        crop_ratio: width by height of random crops: `absolute`, 3/4 to 4/3 as released, which cuts
            the ends off long masks; or `relative`, 3/4 to 4/3 of the box's own.
        templates: what nouns are put into; the released trainer reads them as they stand.
        duplicates: what equal nouns of a batch are to one another: `positives`, or as released
            `negatives`, which punishes right answers.
        lr: the learning rate of the image tower.
        weight_decay: of its matrices, decoupled; there is none on biases, norms and prompts.
        prompt_lr: the learning rate of mask prompts; the paper says 2e-2 where the scripts have
            5e-2.
        decay: of the learning rates: `none`, `step`, `cosine` or `poly`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        cached_images: decoded images kept in memory; a set that fits is decoded once.
    """

    steps: PositiveInt = 17_270
    batch_size: Annotated[int, Field(ge=2)] = 128
    start: str | None = None
    pairs: Literal["mined", "ground_truth", "both"] = "mined"
    captions: PositiveInt | Literal["all"] = "all"
    least_score: Cosine | None = None
    masked: bool = True
    least_crop: Annotated[float, Field(gt=0, le=1)] = 0.9
    crop_ratio: Literal["absolute", "relative"] = "absolute"
    templates: Literal["name_only", "vild"] = "name_only"
    duplicates: Literal["positives", "negatives"] = "positives"
    lr: NonNegativeFloat = 5e-6
    weight_decay: NonNegativeFloat = 0.2
    prompt_lr: NonNegativeFloat = 5e-2
    decay: Decay = "cosine"
    warmup: NonNegativeInt = 100
    gradient_clip: NonNegativeFloat = 0.0
    cached_images: NonNegativeInt = 0

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        return LoopOptions(self.steps, gradient_clip=self.gradient_clip, precision=precision)

    def optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW over what is tuned, prompts at their own rate and without weight decay.

        The temperature has the tower's rate, and the prompts' where they are tuned alone.
        """
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        prompts = [p for name, p in named.items() if PROMPTS in name]
        others = [p for name, p in named.items() if PROMPTS not in name]
        matrices, vectors = (
            [p for p in others if (p.ndim > 1) == matrix] for matrix in (True, False)
        )
        vector_lr = self.lr if matrices else self.prompt_lr
        groups = [
            {"params": matrices, "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": vectors, "lr": vector_lr, "weight_decay": 0.0},
            {"params": prompts, "lr": self.prompt_lr, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, betas=BETAS, eps=EPSILON
        )

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rates at each step."""
        return schedule(steps=self.steps, warmup=self.warmup, decay=self.decay)
