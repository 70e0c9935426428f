"""Mask-aware fine-tuning: CLIP's image tower learns to score a mask by how well it covers a class.

MAFT (Jiao et al., NeurIPS 2023), section 3.3. Proposer, teacher and texts are frozen and, unlike
in the released code, in evaluation mode; a batch of one image will do.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.plugged_tower import base_of
from ovseg_cli.checkpoints.run_parts import load_tuned
from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.parameter_groups import freeze
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.mask_aware import mask_aware_loss, overlap_cross_entropy
from ovseg_cli.losses.self_distillation import self_distillation_loss
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.recipe import build, choose
from ovseg_cli.stages.learning import fit_in_run, learned_words
from ovseg_cli.stages.maft_examples import Batch, MaftExamples
from ovseg_cli.stages.maft_options import MaftOptions
from ovseg_cli.stages.pseudo_labels import PseudoLabels
from ovseg_cli.stages.session import Settings, dataset_of, train_split, tuning_section
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.stages.tuning_proposer import tuning_proposer
from ovseg_cli.structures import TextEmbeddings, Vocabulary
from ovseg_cli.training import distributed


def tune_maft(
    settings: Settings, artifact: str, checkpoint_name: str, fingerprint: str
) -> dict[str, Any]:
    """Mask-aware fine-tuning; saves clip/<artifact> and returns the figures to record.

    Args:
        settings: run directory, recipe, device.
        artifact: the name to save it by.
        checkpoint_name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.

    Raises:
        RecipeError: an option that cannot be used.
        RunError: the run directory lacks the CLIP, the proposals, or what to begin with.
        InputError: no image of the split has a mask.
        CheckpointError: an artifact that is damaged or does not fit the CLIP.
    """
    recipe, device = settings.recipe, settings.device
    options = build("tune_clip", tuning_section(recipe), MaftOptions)
    _check(options, artifact)
    dataset = dataset_of(settings, train_split(settings), part="seen")
    vocabulary = _words(settings, options, dataset)
    clip = clip_of(settings.run, recipe)
    encoder = _encoder(settings, options, clip=clip).to(device)
    classification = build("classification", recipe.section("classification"), Classification)
    classification = classification.with_scale_of(clip.logit_scale)
    texts = learned_words(settings, vocabulary, clip)
    pseudo_labels = None
    if options.pseudo_labels:
        before = _encoder(settings, options, clip=clip).to(device).requires_grad_(False)
        unseen = ~torch.tensor(vocabulary.seen)
        pseudo_labels = PseudoLabels(before, texts, classification, unseen, options.pseudo_score)
    examples = MaftExamples(
        dataset,
        tuning_proposer(settings, vocabulary, clip) if options.masks == "proposals" else None,
        encoder,
        options=options,
        seed=recipe.seed,
        align_corners=build("framing", recipe.section("framing"), FramingOptions).align_corners,
        label_of=torch.tensor([vocabulary.names.index(n) for n in dataset.vocabulary.names]),
        pseudo_labels=pseudo_labels,
    )
    result = fit_in_run(
        settings,
        options,
        encoder,
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: maft_losses(
            module, batch, text_embeddings=texts, classification=classification, options=options
        ),
        name=checkpoint_name,
        fingerprint=fingerprint,
    )
    if distributed.is_main():
        model = {
            "mode": "maft",
            "base": base_of(recipe),
            "mask_encoder": recipe.section("mask_encoder"),
        }
        settings.run.save_artifact("clip", artifact, encoder.tuned_tensors(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def maft_losses(
    encoder: nn.Module,
    batch: Batch,
    *,
    text_embeddings: TextEmbeddings,
    classification: Classification,
    options: MaftOptions,
) -> dict[str, Tensor]:
    """The weighted losses of the masks' scores and of the whole images', in float32.

    Args:
        encoder: an `ImageProposals`, wrapped or not.
        batch: on any device, brought to the texts'.
        text_embeddings: of the classes alone, without background; on the encoder's device.
        classification: CLIP's temperature, and what becomes of a class's several texts.
        options: the objective and the weights.
    """
    device = text_embeddings.embeddings.device
    overlaps = [overlap.to(device) for overlap in batch.overlaps]
    side = _grid(encoder)
    masks = batch.visible.to(device).float().unflatten(2, (side, side))
    of_masks, of_images = encoder(batch.images.to(device), masks)
    with torch.autocast(device.type, enabled=False):
        logits = _logits(of_masks, text_embeddings, classification)
        if options.objective == "mask_aware":
            loss = mask_aware_loss(logits, overlaps, distance=options.distance)
        else:
            loss = overlap_cross_entropy(logits, overlaps)
        losses: dict[str, Tensor] = {options.objective: options.mask_aware_weight * loss}
        if options.distillation_weight:
            both = torch.stack([of_images, batch.taught.to(device)])
            student, teacher = _logits(both, text_embeddings, classification)
            loss = self_distillation_loss(student, teacher)
            losses["distillation"] = options.distillation_weight * loss
    return losses


def _logits(
    embeddings: Float[Tensor, "B N D"], texts: TextEmbeddings, classification: Classification
) -> Float[Tensor, "B N K"]:
    logits = class_logits(
        embeddings.flatten(0, 1).float(),
        texts,
        scale=classification.temperature,
        synonyms=classification.synonyms,
    )
    return logits.unflatten(0, embeddings.shape[:2])


def _grid(encoder: nn.Module) -> int:
    inner: Any = encoder.module if isinstance(encoder, DistributedDataParallel) else encoder
    return int(inner.grid)


def _words(settings: Settings, options: MaftOptions, dataset: CocoDataset) -> Vocabulary:
    """The classes that are learned: the seen ones, and with pseudo labels the unseen ones too."""
    if not options.pseudo_labels:
        return dataset.vocabulary
    vocabulary = dataset_of(settings, train_split(settings)).vocabulary
    if all(vocabulary.seen):
        raise RecipeError(
            "[tune_clip] pseudo_labels: the dataset has no unseen class to find; leave the option "
            "out, or take a split such as dataset.classes=coco_stuff_156_15"
        )
    return vocabulary


def _encoder(settings: Settings, options: MaftOptions, *, clip: ClipEncoder) -> ImageProposals:
    """The encoder as tuning begins, what is frozen without gradient."""
    recipe = settings.recipe
    target, section = choose(
        "mask_encoder", recipe.section("mask_encoder"), {"image_proposals": ImageProposals}
    )
    encoder = build("mask_encoder", section, target, clip=clip, seed=recipe.seed)
    assert encoder.visual is not None  # the mode's check of the recipe
    if options.start is not None:
        load_tuned(settings.run, recipe, encoder, options.start)
    freeze(encoder.visual, options.frozen)
    if not any(parameter.requires_grad for parameter in encoder.visual.parameters()):
        raise RecipeError(
            "[tune_clip] frozen: these groups are the whole image tower, so that there is nothing "
            "to learn; leave one out"
        )
    return encoder


def _check(options: MaftOptions, artifact: str) -> None:
    check_shares("tune_clip", options.batch_size)
    if options.start == artifact:
        raise RecipeError(
            f"[tune_clip] start: {artifact} is what this tuning makes; name its result otherwise "
            "with artifacts.tuned"
        )
    if options.masks == "proposals":
        check_side("tune_clip", options.image_size)
    if options.pseudo_labels and options.masks != "proposals":
        raise RecipeError(
            "[tune_clip] pseudo_labels: nobody annotated the masks of unseen classes; set "
            "tune_clip.masks to proposals"
        )
    if not options.mask_aware_weight and not options.distillation_weight:
        raise RecipeError(
            "[tune_clip] mask_aware_weight and distillation_weight are both 0, so that there is "
            "nothing to learn; set one of them"
        )
