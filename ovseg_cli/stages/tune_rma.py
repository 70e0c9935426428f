"""Tuning relative mask attention: CLIP learns to read masks, and to mend them.

MaskCLIP (Ding et al., ICML 2023), sections 3.3 and 4. Proposer, CLIP and texts are frozen. Unlike
the released code no gradient is computed for what is frozen, and a batch without an annotated mask
has a class loss of zero, not NaN.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.plugged_tower import base_of
from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.mask_encoders.relative_mask_attention import RefinedMasks, RelativeMaskAttention
from ovseg_cli.recipe import build, choose
from ovseg_cli.stages.learning import fit_in_run, learned_words
from ovseg_cli.stages.rma_examples import Batch, RmaExamples
from ovseg_cli.stages.rma_options import RmaOptions
from ovseg_cli.stages.session import Settings, dataset_of, train_split, tuning_section
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.stages.tuning_proposer import tuning_proposer
from ovseg_cli.structures import TextEmbeddings
from ovseg_cli.training import distributed


def tune_rma(
    settings: Settings, artifact: str, checkpoint_name: str, fingerprint: str
) -> dict[str, Any]:
    """Tunes relative mask attention; saves clip/<artifact> and returns the figures to record.

    Args:
        settings: run directory, recipe, device.
        artifact: the name to save it by.
        checkpoint_name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.
    """
    recipe, device = settings.recipe, settings.device
    options = build("tune_clip", tuning_section(recipe), RmaOptions)
    classification = build("classification", recipe.section("classification"), Classification)
    check_shares("tune_clip", options.batch_size)
    check_side("tune_clip", options.image_size)
    dataset = dataset_of(settings, train_split(settings), part="seen")
    clip = clip_of(settings.run, recipe)
    classification = classification.with_scale_of(clip.logit_scale)
    encoder = _encoder(recipe.section("mask_encoder"), clip=clip, seed=recipe.seed).to(device)
    proposer = tuning_proposer(settings, dataset.vocabulary, clip)
    examples = RmaExamples(dataset, proposer, options=options, seed=recipe.seed, device=device)
    texts = learned_words(settings, dataset.vocabulary, clip, background=options.no_object)
    result = fit_in_run(
        settings,
        options,
        encoder,
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: rma_losses(
            module,
            batch,
            text_embeddings=texts,
            classification=classification,
            options=options,
            seed=recipe.seed,
            step=step,
        ),
        name=checkpoint_name,
        fingerprint=fingerprint,
    )
    tensors = encoder.tuned_tensors()
    if distributed.is_main():
        model = {
            "mode": "rma",
            "base": base_of(recipe),
            "mask_encoder": recipe.section("mask_encoder"),
        }
        settings.run.save_artifact("clip", artifact, tensors, model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(value.numel() for value in tensors.values()),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def rma_losses(
    encoder: nn.Module,
    batch: Batch,
    *,
    text_embeddings: TextEmbeddings,
    classification: Classification,
    options: RmaOptions,
    seed: int,
    step: int,
) -> dict[str, Tensor]:
    """The weighted losses of the masks' classes and, where they are refined, of the masks.

    Where unmatched proposals have no weight, all are matched without gradient and the matched ones
    alone are learned from: mask tokens do not see one another, so losses and gradients are those of
    the whole.

    Args:
        encoder: a `RelativeMaskAttention`, wrapped or not.
        batch: on any device, brought to the texts'.
        text_embeddings: of the seen classes and of "no object", which is last; on the encoder's
            device.
        classification: CLIP's temperature, and what becomes of a class's several texts.
        options: weights, points and supervision.
        seed: of the random points.
        step: the training step.
    """
    device = text_embeddings.embeddings.device
    batch = batch._replace(images=batch.images.to(device), mask_logits=batch.mask_logits.to(device))
    criterion, draw = options.criterion(), {"seed": seed, "step": step}

    def predictions(refined: RefinedMasks) -> list[tuple[Tensor, Tensor]]:
        logits = _class_logits(refined.embeddings, text_embeddings, classification)
        masks = refined.mask_logits
        taught = masks if options.supervision == "distinct" else (masks[-1],) * len(masks)
        return [(logits, mask_logits) for mask_logits in taught]

    inner: Any = encoder.module if isinstance(encoder, DistributedDataParallel) else encoder
    read = None
    if options.no_object_weight == 0:
        read = inner.read(batch.images)
        with torch.no_grad():
            found = predictions(encoder(batch.images, batch.mask_logits, read))
        torch.clear_autocast_cache()  # it holds weights cast without gradient
        batch = _narrowed(
            batch, criterion.ever_matched(found, batch.targets, counts=batch.counts, **draw)
        )
    found = predictions(encoder(batch.images, batch.mask_logits, read))
    losses = criterion(found, batch.targets, counts=batch.counts, **draw)
    return losses if found[-1][1].requires_grad else {"class": losses["class"]}


def _class_logits(
    embeddings: Float[Tensor, "B N D"], texts: TextEmbeddings, classification: Classification
) -> Float[Tensor, "B N K"]:
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = class_logits(
            embeddings.flatten(0, 1).float(),
            texts,
            scale=classification.temperature,
            synonyms=classification.synonyms,
        )
    return logits.view(*embeddings.shape[:2], -1)


def _narrowed(batch: Batch, kept: Bool[Tensor, "B N"]) -> Batch:
    """The batch with some of its proposals, in their order; others pad it."""
    counts = kept.sum(1)
    width = max(1, int(counts.max()))
    rows = kept.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    images = torch.arange(len(rows), device=rows.device)[:, None]
    return batch._replace(
        mask_logits=batch.mask_logits[images, rows], counts=tuple(counts.tolist())
    )


def _encoder(section: dict[str, Any], **parts: Any) -> RelativeMaskAttention:
    target, options = choose(
        "mask_encoder", section, {"relative_mask_attention": RelativeMaskAttention}
    )
    return build("mask_encoder", options, target, **parts)
