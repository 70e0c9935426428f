"""`ovseg train-proposals`: trains a proposer on annotated masks.

Masks have no class, but for FC-CLIP's proposer: it learns the words of the seen classes, of which
the frozen text tower makes embeddings once (Yu et al., NeurIPS 2023, section 3.3).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.imagenet import load_backbone
from ovseg_cli.checkpoints.plugged_tower import base_of, clip_artifacts
from ovseg_cli.checkpoints.proposer_parts import takes_clip, vocabulary_json
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import RecipeError
from ovseg_cli.proposers import PROPOSERS, READY_PROPOSERS, ClipMask2Former, LearnedProposer
from ovseg_cli.recipe import build, choose
from ovseg_cli.stages.learning import fit_in_run, learned_words
from ovseg_cli.stages.proposal_examples import ProposalExamples
from ovseg_cli.stages.proposal_losses import proposal_losses
from ovseg_cli.stages.proposal_options import TEACHER, TrainProposalsOptions
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    artifact_hashes,
    check_name,
    dataset_of,
    dataset_options,
    run_stage,
    train_split,
)
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.training import distributed

STAGE = "train-proposals"
SECTIONS = ("proposer", "dataset", "train_proposals")
CLIP_SECTIONS = (*SECTIONS, "clip", "vocabulary")


def train_proposals(settings: Settings) -> Outcome:
    """Trains the recipe's proposer and saves it as proposals/<name>.

    Args:
        settings: run directory, recipe, device.

    Raises:
        RecipeError: an option that cannot be used.
        RunError: the proposer reads CLIP's features, and the run directory lacks the CLIP.
        InputError: the dataset has no annotated masks.
        CheckpointError: the backbone's weights cannot be had, or a CLIP without four levels.
    """
    section = settings.recipe.section("train_proposals")
    options = build("train_proposals", section, TrainProposalsOptions)
    check_name("train_proposals", options.name)
    reads_clip = takes_clip(_chosen(settings.recipe.section("proposer"))[1])
    split, kind = train_split(settings), dataset_options(settings).annotations
    inputs = annotation_hashes(settings, f"{kind}_{split}.json", "vocabulary.json")
    if reads_clip:
        clips = (f"clip/{name}" for name in clip_artifacts(settings.recipe))
        inputs |= artifact_hashes(settings, *clips)
    return run_stage(
        settings,
        STAGE,
        lambda fingerprint: _trained(settings, options, split, fingerprint),
        artifact=f"proposals/{options.name}",
        checkpoint_name=_log_name(options),
        sections=CLIP_SECTIONS if reads_clip else SECTIONS,
        inputs=inputs,
    )


def _trained(
    settings: Settings, options: TrainProposalsOptions, split: str, fingerprint: str
) -> dict[str, Any]:
    recipe, device = settings.recipe, settings.device
    check_shares("train_proposals", options.batch_size)
    check_side("train_proposals", options.image_size)
    dataset, section = dataset_of(settings, split, part="seen"), recipe.section("proposer")
    clip, texts = None, None
    if takes_clip(_chosen(section)[1]):
        clip = clip_of(settings.run, recipe).to(device).eval()
        texts = learned_words(settings, dataset.vocabulary, clip)
    torch.manual_seed(recipe.seed)
    name, proposer = built_proposer(section, clip)
    if not isinstance(proposer, ClipMask2Former) and options.backbone_weights != "none":
        architecture = _backbone_name(section)
        load_backbone(proposer.backbone, options.backbone_weights, architecture=architecture)
    examples = ProposalExamples(dataset, options, seed=recipe.seed)
    result = fit_in_run(
        settings,
        options,
        proposer.to(device),
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: proposal_losses(
            module, batch, options=options, seed=recipe.seed, step=step, device=device, texts=texts
        ),
        name=_log_name(options),
        fingerprint=fingerprint,
    )
    if distributed.is_main():
        words = vocabulary_json(dataset.vocabulary)
        model = {"name": name, "options": section, "vocabulary": words}
        model |= {"base": base_of(recipe)} if clip is not None else {}
        settings.run.save_artifact("proposals", options.name, proposer.state_dict(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in proposer.parameters()),
        "images": len(examples.images.indices),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def _log_name(options: TrainProposalsOptions) -> str:
    """Of checkpoint and log; those of the first proposals have the stage's own."""
    return STAGE if options.name == TEACHER else f"{STAGE}-{options.name}"


def built_proposer(
    section: dict[str, Any], clip: ClipEncoder | None = None
) -> tuple[str, LearnedProposer]:
    """The trainable proposer that a recipe's section describes, with its name.

    Args:
        section: the recipe's `proposer`; Mask2Former where it has no `name`.
        clip: for a proposer that reads CLIP's features.
    """
    name, target, options = _chosen(section)
    parts = {"clip": clip} if takes_clip(target) else {}
    return name, build("proposer", options, target, **parts)


def _backbone_name(section: dict[str, Any]) -> str:
    _, target, options = _chosen(section)
    default = inspect.signature(target).parameters["backbone"].default
    return str(options.get("backbone", default))


def _chosen(
    section: dict[str, Any],
) -> tuple[str, Callable[..., LearnedProposer], dict[str, Any]]:
    named = {"name": "mask2former", **section}
    if named["name"] in READY_PROPOSERS:
        raise RecipeError(
            f"[proposer] name: {named['name']} is ready as it is, and is not trained; leave "
            "'ovseg train-proposals' out"
        )
    return str(named["name"]), *choose("proposer", named, PROPOSERS)
