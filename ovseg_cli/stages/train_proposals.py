"""`ovseg train-proposals`: trains a class-agnostic proposer on annotated masks."""

from typing import Any

import torch

from ovseg_cli.checkpoints.mask2former import load_backbone
from ovseg_cli.proposers import PROPOSERS, Mask2Former, MaskRcnn
from ovseg_cli.recipe import build, choose
from ovseg_cli.stages.proposal_examples import ProposalExamples
from ovseg_cli.stages.proposal_losses import proposal_losses
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    dataset_of,
    dataset_options,
    run_stage,
    train_split,
)
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import fit

SECTIONS = ("proposer", "dataset", "train_proposals")


def train_proposals(settings: Settings) -> Outcome:
    """Trains the recipe's proposer and saves it as proposals/teacher.

    Args:
        settings: run directory, recipe, device.

    Raises:
        RecipeError: an option that cannot be used.
        InputError: the dataset has no annotated masks.
        CheckpointError: the backbone's weights cannot be had.
    """
    section = settings.recipe.section("train_proposals")
    options = build("train_proposals", section, TrainProposalsOptions)
    split, kind = train_split(settings), dataset_options(settings).annotations
    return run_stage(
        settings,
        "train-proposals",
        lambda fingerprint: _trained(settings, options, split, fingerprint),
        artifact="proposals/teacher",
        sections=SECTIONS,
        inputs=annotation_hashes(settings, f"{kind}_{split}.json", "vocabulary.json"),
    )


def _trained(
    settings: Settings, options: TrainProposalsOptions, split: str, fingerprint: str
) -> dict[str, Any]:
    recipe, device = settings.recipe, settings.device
    check_shares("train_proposals", options.batch_size)
    check_side("train_proposals", options.image_size)
    torch.manual_seed(recipe.seed)
    name, proposer = built_proposer(recipe.section("proposer"))
    if options.backbone_weights != "none":
        architecture = recipe.section("proposer").get("backbone", "resnet50")
        load_backbone(proposer.backbone, options.backbone_weights, architecture=architecture)
    dataset = dataset_of(settings, split, part="seen")
    examples = ProposalExamples(dataset, options, seed=recipe.seed)
    result = fit(
        proposer.to(device),
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: proposal_losses(
            module, batch, options=options, seed=recipe.seed, step=step, device=device
        ),
        optimizer=options.optimizer(proposer),
        schedule=options.schedule(),
        options=options.loop(settings.precision_or("fp32")),
        run=settings.run,
        stage="train-proposals",
        fingerprint=fingerprint,
        device=device,
    )
    if distributed.is_main():
        model = {"name": name, "options": recipe.section("proposer")}
        settings.run.save_artifact("proposals", "teacher", proposer.state_dict(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in proposer.parameters()),
        "images": len(examples.images.indices),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def built_proposer(section: dict[str, Any]) -> tuple[str, Mask2Former | MaskRcnn]:
    """The trainable proposer that a recipe's section describes, with its name.

    Args:
        section: the recipe's `proposer`; Mask2Former where it has no `name`.
    """
    named = {"name": "mask2former", **section}
    target, options = choose("proposer", named, PROPOSERS)
    return str(named["name"]), build("proposer", options, target)
