"""The recipe's mask encoder, tuned or not, and all artifacts that a segmenter is built from."""

from typing import Any

import torch
from torch import Tensor, nn

from ovseg_cli.checkpoints.clip_parts import check_base, check_same_clip
from ovseg_cli.checkpoints.plugged_tower import clip_artifacts
from ovseg_cli.checkpoints.proposer_parts import (
    ArtifactOptions,
    proposal_artifacts,
    proposals_name,
)
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders import MASK_ENCODERS, MaskEncoder, TunedEncoder, tuned_artifact
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.recipe import Recipe, build, choose
from ovseg_cli.run import Run

DEFAULT_ENCODER = {"name": "mask_class_tokens"}
TOWER = "dense."  # the tower that a proposer trained, by its names in the artifact


def tuned_name(recipe: Recipe, section: dict[str, Any] | None = None) -> str | None:
    """The clip artifact that a mask encoder is tuned to; None where it is not tuned at all.

    Args:
        recipe: its `artifacts.tuned` names that of its own mask encoder.
        section: another mask encoder than `mask_encoder`, or that one with other free options.
    """
    own = tuned_artifact(encoder_section(recipe))
    default = tuned_artifact(section) if section else own
    if default is None or default != own:
        return default
    return build("artifacts", recipe.section("artifacts"), ArtifactOptions).tuned or default


def mask_encoder_of(
    run: Run,
    recipe: Recipe,
    clip: ClipEncoder,
    *,
    device: torch.device,
    section: dict[str, Any] | None = None,
) -> MaskEncoder:
    """The recipe's mask encoder on a CLIP, with tuned weights where it has any.

    Args:
        run: holds clip/<name>, see `tuned_name`, or the proposals whose tower is asked for.
        recipe: its section `mask_encoder`.
        clip: frozen.
        device: where it computes.
        section: another one than the recipe's `mask_encoder`.

    Raises:
        RunError: the run directory has no tuned weights.
        CheckpointError: weights that are damaged, of another model, or tuned for an earlier CLIP;
            or proposals that were trained without a tower of their own.
    """
    section = section or encoder_section(recipe)
    target, options = choose("mask_encoder", section, MASK_ENCODERS)
    encoder = build("mask_encoder", options, target, clip=clip, seed=recipe.seed)
    name = tuned_name(recipe, section)
    if name is not None and isinstance(encoder, TunedEncoder):
        load_tuned(run, recipe, encoder, name)
    if isinstance(encoder, MaskPooling) and section.get("tower") == "proposals":
        _load_trained_tower(run, recipe, encoder)
    if isinstance(encoder, nn.Module):
        encoder.to(device).eval()
    return encoder


def load_tuned(run: Run, recipe: Recipe, encoder: TunedEncoder, name: str) -> None:
    """Gives a mask encoder what `tune-clip` made for the recipe's CLIP.

    Args:
        run: holds clip/<name>.
        recipe: says which CLIP.
        encoder: changed in place.
        name: the artifact's.

    Raises:
        RunError: the run directory has no such artifact.
        CheckpointError: it is damaged, of another model, or tuned for another or an earlier CLIP.
    """
    tensors, _ = tuned_part(run, recipe, name)
    encoder.load_tuned_tensors(tensors, source=str(run.artifact_path("clip", name)))


def tuned_part(run: Run, recipe: Recipe, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `tune-clip` made for the recipe's CLIP: the tensors, and what their JSON says.

    Args:
        run: holds clip/<name>.
        recipe: says which CLIP.
        name: the artifact's.

    Raises:
        RunError: the run directory has no such artifact.
        CheckpointError: it is damaged, or tuned for another or an earlier CLIP.
    """
    tensors, model = run.load_artifact("clip", name)
    source = str(run.artifact_path("clip", name))
    check_same_clip(run, recipe, f"clip/{name}", source, "tuned", "tune-clip")
    check_base(model, recipe, source, made="tuned", command="tune-clip")
    return tensors, model


def _load_trained_tower(run: Run, recipe: Recipe, encoder: MaskPooling) -> None:
    name = proposals_name(run, recipe)
    tensors, _ = run.load_artifact("proposals", name)
    source = str(run.artifact_path("proposals", name))
    tower = {n.removeprefix(TOWER): t for n, t in tensors.items() if n.startswith(TOWER)}
    if not tower:
        raise CheckpointError(
            f"{source}: has no image tower, as [mask_encoder] tower: proposals needs; train with "
            "proposer.trainable_clip, or set mask_encoder.tower to clip"
        )
    encoder.load_tower(tower, source=source)


def encoder_section(recipe: Recipe) -> dict[str, Any]:
    """The section `mask_encoder`, frozen mask class tokens where the recipe has none."""
    return recipe.section("mask_encoder") or dict(DEFAULT_ENCODER)


def artifacts_of(run: Run, recipe: Recipe, *, proposer: bool = True) -> tuple[str, ...]:
    """The artifacts that a segmenter of this recipe is built from, as `kind/name`.

    Args:
        run: whose newest proposals are taken if the recipe names none.
        recipe: says which CLIP and which mask encoders.
        proposer: whether a proposer is part of it.
    """
    encoders = [encoder_section(recipe)]
    if second := recipe.section("in_vocabulary"):
        encoders.append(second)
    names: list[str] = []
    if any(e.get("tower") == "proposals" for e in encoders):
        names.append(f"proposals/{proposals_name(run, recipe)}")
    elif proposer:
        names += [f"proposals/{name}" for name in proposal_artifacts(run, recipe)]
    names += [f"clip/{name}" for name in clip_artifacts(recipe)]
    tuned = [tuned_name(recipe, encoder) for encoder in encoders]
    names += [f"clip/{name}" for name in tuned if name is not None]
    return tuple(dict.fromkeys(names))
