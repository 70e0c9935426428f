"""`ovseg train-clip`: contrastive training of a small CLIP from images and their captions."""

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ovseg_cli.checkpoints.plugged_tower import clip_section
from ovseg_cli.clip.encoder import OPENAI_MEAN, OPENAI_STD
from ovseg_cli.clip.pair_encoder import PairEncoder, window_grid
from ovseg_cli.clip.small import SMALL_CLIPS
from ovseg_cli.device import PrecisionChoice
from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.contrastive import contrastive_losses
from ovseg_cli.recipe import Recipe, Share, build, choose
from ovseg_cli.stages.caption_batches import (
    CaptionBatch,
    PhasedBatches,
    PhaseOptions,
    check_phases,
)
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    dataset_root,
    run_stage,
)
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import adamw, schedule

SECTIONS = ("clip", "dataset", "train_clip")


@dataclass(frozen=True)
class TrainClipOptions:
    """The recipe's section `train_clip`.

    Attributes:
        phases: easy ones first.
        steps: optimizer steps in all.
        lr: highest learning rate; it decays by a cosine.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the gradient.
        captions_per_image: how many of an image's captions are its positives in a step.
        rehearsal: share of the steps of later phases that take a batch of an earlier one.
        max_scale: largest temperature factor.
        precision: of the forward passes unless --precision says otherwise; `auto` is bf16 where
            the device computes in it.
    """

    phases: tuple[PhaseOptions, ...]
    steps: PositiveInt = 3000
    lr: NonNegativeFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.05
    warmup: NonNegativeInt = 100
    gradient_clip: NonNegativeFloat = 1.0
    captions_per_image: PositiveInt = 2
    rehearsal: Share = 0.15
    max_scale: PositiveFloat = 100.0
    precision: PrecisionChoice = "fp32"


def train_clip(settings: Settings) -> Outcome:
    """Trains the recipe's CLIP from random weights and saves it as clip/base.

    Args:
        settings: run directory, recipe, device.

    Raises:
        RecipeError: an option that cannot be used.
        InputError: captions or images that cannot be read.
    """
    architecture = _architecture(settings.recipe)
    options = build("train_clip", settings.recipe.section("train_clip"), TrainClipOptions)
    captions = [f"captions_{phase.split}.json" for phase in options.phases]
    return run_stage(
        settings,
        "train-clip",
        lambda fingerprint: _trained(settings, architecture, options, fingerprint),
        artifact="clip/base",
        sections=SECTIONS,
        inputs=annotation_hashes(settings, *captions),
    )


def _trained(
    settings: Settings, architecture: dict[str, Any], options: TrainClipOptions, fingerprint: str
) -> dict[str, Any]:
    recipe = settings.recipe
    torch.manual_seed(recipe.seed)
    target, sizes = choose("clip", architecture, SMALL_CLIPS)
    clip = build("clip", sizes, target)
    grid, patch_size = window_grid(clip)
    check_phases(options.phases, image_size=grid * patch_size, patch_size=patch_size)
    encoder = PairEncoder(clip, mean=OPENAI_MEAN, std=OPENAI_STD).to(settings.device)
    batches = PhasedBatches(
        options.phases,
        dataset_root(settings),
        steps=options.steps,
        captions_per_image=options.captions_per_image,
        rehearsal=options.rehearsal,
        grid=grid,
        patch_size=patch_size,
        context_length=clip.context_length,
        seed=recipe.seed,
    )
    result = fit(
        encoder,
        batch_at=batches.batch_at,
        losses_of=lambda module, batch, step: caption_losses(
            module, batch, device=settings.device, max_scale=options.max_scale
        ),
        optimizer=adamw(encoder, lr=options.lr, weight_decay=options.weight_decay),
        schedule=schedule(steps=options.steps, warmup=options.warmup, decay="cosine"),
        options=LoopOptions(
            options.steps,
            gradient_clip=options.gradient_clip,
            precision=settings.precision_or(options.precision),
        ),
        run=settings.run,
        stage="train-clip",
        fingerprint=fingerprint,
        device=settings.device,
    )
    if distributed.is_main():
        model = {"architecture": architecture["name"], "options": sizes}
        settings.run.save_artifact("clip", "base", clip.state_dict(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in clip.parameters()),
        "logit_scale": clip.logit_scale.exp().item(),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def caption_losses(
    module: nn.Module, batch: CaptionBatch, *, device: torch.device, max_scale: float
) -> dict[str, Tensor]:
    """The contrastive losses of a batch.

    Args:
        module: a `PairEncoder`, or its wrapper for several processes.
        batch: images and texts.
        device: where the module is.
        max_scale: largest temperature factor.
    """
    images, texts, scale = module(batch.pixels.to(device), batch.corner, batch.tokens.to(device))
    return contrastive_losses(
        images,
        texts,
        image_texts=batch.image_texts.to(device),
        text_ids=batch.text_ids.to(device),
        scale=scale.clamp(max=max_scale),
    )


def _architecture(recipe: Recipe) -> dict[str, Any]:
    section = {"name": "small", **clip_section(recipe)}
    if section["name"] not in SMALL_CLIPS:
        trained = " or ".join(SMALL_CLIPS)
        raise RecipeError(f"[clip] name: train-clip trains {trained}, not {section['name']!r}")
    return section
