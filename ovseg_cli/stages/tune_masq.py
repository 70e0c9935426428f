"""MasQ-Tuning: projections of its own that make CLIP's class token fit for masks.

MasQCLIP (Xu et al., ICCV 2023), section 3.3; loss as in the released code. Proposer, CLIP and texts
are frozen.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.plugged_tower import base_of
from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.classification import weighted_cross_entropy
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.mask_encoders.masq_projections import begins_as_clip
from ovseg_cli.recipe import build, choose, options_for
from ovseg_cli.stages.learning import fit_in_run, learned_words
from ovseg_cli.stages.masq_examples import Batch, MasqExamples
from ovseg_cli.stages.masq_options import MasqOptions
from ovseg_cli.stages.session import Settings, dataset_of, train_split, tuning_section
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.stages.tuning_proposer import tuning_proposer
from ovseg_cli.structures import TextEmbeddings
from ovseg_cli.training import distributed


def tune_masq(
    settings: Settings, artifact: str, checkpoint_name: str, fingerprint: str
) -> dict[str, Any]:
    """MasQ-Tuning; saves clip/<artifact> and returns the figures to record.

    Args:
        settings: run directory, recipe, device.
        artifact: the name to save it by.
        checkpoint_name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.
    """
    recipe, device = settings.recipe, settings.device
    options = build("tune_clip", tuning_section(recipe), MasqOptions)
    classification = build("classification", recipe.section("classification"), Classification)
    encoder_options = masq_encoder_options(recipe.section("mask_encoder"))
    _check(options, encoder_options, classification)
    dataset = dataset_of(settings, train_split(settings), part="seen")
    clip = clip_of(settings.run, recipe)
    classification = classification.with_scale_of(clip.logit_scale)
    encoder = MaskClassTokens(clip, **encoder_options, seed=recipe.seed).to(device)
    proposer = None
    if options.masks != "ground_truth":
        proposer = tuning_proposer(settings, dataset.vocabulary, clip)
    examples = MasqExamples(dataset, proposer, encoder, options=options, seed=recipe.seed)
    background = classification.background
    texts = learned_words(settings, dataset.vocabulary, encoder.clip, background=background)
    partly = options.tuned_share != 1
    beginning = {k: v.clone() for k, v in encoder.tuned_tensors().items()} if partly else {}
    result = fit_in_run(
        settings,
        options,
        encoder,
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: masq_loss(
            module, batch, text_embeddings=texts, classification=classification, options=options
        ),
        name=checkpoint_name,
        fingerprint=fingerprint,
    )
    tensors = encoder.tuned_tensors()
    if partly:
        tensors = tuned_share(beginning, tensors, options.tuned_share)
    if distributed.is_main():
        tuned = {"variant": encoder.variant, "init": encoder.init}
        model = {"mode": "masq", "base": base_of(recipe), "mask_encoder": tuned}
        settings.run.save_artifact("clip", artifact, tensors, model)
    parameters = sum(value.numel() for value in tensors.values())
    return {
        "seconds": round(result.seconds, 1),
        "parameters": parameters,
        "skipped": result.skipped,
        "losses": result.losses,
    }


def masq_encoder_options(section: dict[str, Any]) -> dict[str, Any]:
    """The options of the mask class tokens to tune.

    Args:
        section: the recipe's `mask_encoder`.

    Raises:
        RecipeError: another mask encoder, or an unknown option.
    """
    target, options = choose(
        "mask_encoder",
        section or {"name": "mask_class_tokens"},
        {"mask_class_tokens": MaskClassTokens},
    )
    return options_for("mask_encoder", options, target, given=("clip", "seed"))


def _check(
    options: MasqOptions, encoder_options: dict[str, Any], classification: Classification
) -> None:
    check_shares("tune_clip", options.batch_size)
    if options.masks != "ground_truth":
        check_side("tune_clip", options.image_size)
    if options.augmentation == "jitter" and not options.flip:
        raise RecipeError(
            "[tune_clip] flip: jitter mirrors every other image always; leave flip out, or set "
            "augmentation to squash"
        )
    beginning = (encoder_options.get("variant", "freeze"), encoder_options.get("init", "released"))
    if options.tuned_share != 1 and not begins_as_clip(*beginning):
        raise RecipeError(
            "[tune_clip] tuned_share: weights between random and tuned ones mean nothing; set "
            "mask_encoder.init to clip, or tuned_share to 1"
        )
    if classification.background is None:
        raise RecipeError(
            "[classification] background: masq calls proposals that show no annotated mask by "
            "this word; set it to background"
        )


def masq_loss(
    encoder: nn.Module,
    batch: Batch,
    *,
    text_embeddings: TextEmbeddings,
    classification: Classification,
    options: MasqOptions,
) -> dict[str, Tensor]:
    """The weighted cross-entropy of the masks' labels, background included, in float32.

    Args:
        encoder: a `MaskClassTokens`, wrapped or not.
        batch: on any device, brought to the texts'.
        text_embeddings: of the seen classes and the background, which is last; on the encoder's
            device.
        classification: CLIP's temperature, and what becomes of a class's several texts.
        options: the weights.
    """
    device = text_embeddings.embeddings.device
    images, visible, labels = (part.to(device, non_blocking=True) for part in batch)
    embeddings = encoder(images, visible)
    with torch.autocast(device.type, enabled=False):
        logits = class_logits(
            embeddings.flatten(0, 1).float(),
            text_embeddings,
            scale=classification.temperature,
            synonyms=classification.synonyms,
        )
        loss = weighted_cross_entropy(
            logits,
            labels.flatten(),
            background_weight=options.background_weight,
            per_process_mean=options.per_process_mean,
        )
    return {"classification": options.loss_weight * loss}


def tuned_share(
    beginning: dict[str, Tensor], end: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights on the straight line from the beginning of a tuning to its end.

    Args:
        beginning: tensors by name.
        end: the same tensors, tuned.
        share: 0 is the beginning, 1 the end.
    """
    return {name: torch.lerp(beginning[name], value, share) for name, value in end.items()}
