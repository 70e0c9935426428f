"""The parts of a segmenter, built from a recipe and the artifacts of a run directory."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovseg_cli.checkpoints.plugged_tower import (
    base_of,
    clip_artifacts,
    clip_section,
    put_tower,
    tower_name,
)
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import clip_from_artifact, load_open_clip, load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders import MASK_ENCODERS, MaskEncoder, TunedEncoder, tuned_artifact
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.proposers import (
    FREE_OPTIONS,
    PROPOSERS,
    READY_PROPOSERS,
    ClipMask2Former,
    LearnedProposer,
    Proposer,
)
from ovseg_cli.recipe import Recipe, build, choose, options_for
from ovseg_cli.run import Run
from ovseg_cli.structures import Vocabulary

DEFAULT_ENCODER = {"name": "mask_class_tokens"}
TOWER = "dense."  # the tower that a proposer trained, by its names in the artifact


def clip_of(run: Run, recipe: Recipe) -> ClipEncoder:
    """The recipe's CLIP: open_clip's, or the one that `train-clip` made, with a tuned tower or not.

    Args:
        run: holds clip/base unless the recipe names open_clip, and clip/<tower> if it names one.
        recipe: its section `clip`.

    Raises:
        RunError: the run directory has no CLIP, or no such tower.
        CheckpointError: weights that are damaged or of another model, or tuned for an earlier CLIP.
    """
    clip, tower = _own_clip(run, clip_section(recipe)), tower_name(recipe)
    if tower is not None:
        tensors, _ = run.load_artifact("clip", tower)
        source = str(run.artifact_path("clip", tower))
        _check_same_clip(run, recipe, f"clip/{tower}", source, "tuned", "tune-clip")
        put_tower(clip, tensors, source=source)
    return clip


def _own_clip(run: Run, section: dict[str, Any]) -> ClipEncoder:
    if section.get("name") == "open_clip":
        options = {key: value for key, value in section.items() if key != "name"}
        return build("clip", options, load_open_clip)
    tensors, model = run.load_artifact("clip", "base")
    return clip_from_artifact(tensors, model, source=str(run.artifact_path("clip", "base")))


@dataclass(frozen=True)
class ArtifactOptions:
    """Which artifacts of the run directory a stage takes, where it is not to be the newest.

    Attributes:
        proposals: the name of a proposals artifact, such as `teacher` or `student-2`.
        tuned: the name of the clip artifact that `tune-clip` makes of the recipe's mask encoder and
            that later stages take, instead of `tuned_artifact`.
    """

    proposals: str | None = None
    tuned: str | None = None


def proposals_name(run: Run, recipe: Recipe) -> str:
    """The proposals artifact that the recipe names, else its proposer's newest; or `teacher`."""
    named = build("artifacts", recipe.section("artifacts"), ArtifactOptions).proposals
    proposer = recipe.section("proposer").get("name")
    return named or run.newest("proposals", model_name=proposer) or "teacher"


def proposal_artifacts(run: Run, recipe: Recipe) -> tuple[str, ...]:
    """The proposals artifact, see `proposals_name`; none for a proposer that is not trained here.

    Args:
        run: whose newest proposals are taken if the recipe names none.
        recipe: its sections `proposer` and `artifacts`.
    """
    ready = recipe.section("proposer").get("name") in READY_PROPOSERS
    return () if ready else (proposals_name(run, recipe),)


def tuned_name(recipe: Recipe, section: dict[str, Any] | None = None) -> str | None:
    """The clip artifact that a mask encoder is tuned to; None where it is not tuned at all.

    Args:
        recipe: its `artifacts.tuned` names that of its own mask encoder.
        section: another mask encoder of the recipe than `mask_encoder`.
    """
    own = tuned_artifact(encoder_section(recipe))
    named = build("artifacts", recipe.section("artifacts"), ArtifactOptions).tuned
    default = tuned_artifact(section) if section else own
    return named if named and default is not None and default == own else default


def proposer_of(
    run: Run,
    recipe: Recipe,
    *,
    device: torch.device,
    name: str | None = None,
    clip: ClipEncoder | None = None,
) -> LearnedProposer | Proposer:
    """The recipe's proposer, frozen: trained here, or ready as it is.

    Args:
        run: holds proposals/<name>, for a proposer that is trained here.
        recipe: its sections `proposer` and `artifacts`.
        device: where it computes.
        name: of the weights; None for `proposals_name`.
        clip: for a proposer that reads CLIP's features; None for `clip_of`.

    Raises:
        RunError: the run directory has no proposals artifact.
        CheckpointError: weights that cannot be had, are damaged, of another model than the
            recipe's, or trained on another or an earlier CLIP.
    """
    section = recipe.section("proposer")
    if section.get("name") not in READY_PROPOSERS:
        return trained_proposer_of(run, recipe, device=device, name=name, clip=clip)
    target, options = choose("proposer", section, READY_PROPOSERS)
    proposer: Proposer = build("proposer", options, target)
    return proposer.to(device).eval() if isinstance(proposer, nn.Module) else proposer


def trained_proposer_of(
    run: Run,
    recipe: Recipe,
    *,
    device: torch.device,
    name: str | None = None,
    clip: ClipEncoder | None = None,
) -> LearnedProposer:
    """The recipe's proposer, frozen, with weights from the run directory.

    Args:
        run: holds proposals/<name>.
        recipe: its sections `proposer` and `artifacts`.
        device: where it computes.
        name: of the weights; None for `proposals_name`.
        clip: for a proposer that reads CLIP's features; None for `clip_of`.

    Raises:
        RunError: the run directory has no proposals artifact.
        CheckpointError: weights that are damaged, of another model than the recipe's, or trained on
            another or an earlier CLIP.
    """
    section = recipe.section("proposer")
    name = name or proposals_name(run, recipe)
    tensors, model = run.load_artifact("proposals", name)
    source = str(run.artifact_path("proposals", name))
    target, options = choose("proposer", section, PROPOSERS)
    if model.get("options"):
        _check_trained(model, section, source)
    parts = {}
    if takes_clip(target):
        _check_same_clip(run, recipe, f"proposals/{name}", source, "trained", "train-proposals")
        parts["clip"] = clip or clip_of(run, recipe)
    proposer = build("proposer", options, target, **parts)
    if isinstance(proposer, ClipMask2Former):
        _check_base(model, recipe, source, made="trained", command="train-proposals")
    load_weights(proposer, tensors, source=source)
    return proposer.to(device).eval().requires_grad_(False)


def takes_clip(target: Callable[..., Any]) -> bool:
    """Whether a part is built on a CLIP."""
    return "clip" in inspect.signature(target).parameters


def _check_same_clip(
    run: Run, recipe: Recipe, artifact: str, source: str, made: str, command: str
) -> None:
    parts = [f"clip/{name}" for name in clip_artifacts(recipe)]
    changed = [name for name in run.changed_inputs(artifact) if name in parts]
    if changed:
        raise CheckpointError(
            f"{source}: {made} for an earlier {changed[0]}; make it for the new one with "
            f"'ovseg {command} --run {run.path}'"
        )


def _check_base(
    model: dict[str, Any], recipe: Recipe, source: str, *, made: str, command: str
) -> None:
    then, now = model.get("base", "base"), base_of(recipe)
    if then != now:
        raise CheckpointError(
            f"{source}: {made} on clip/{then}, but the recipe's CLIP is clip/{now}; set clip.tower "
            f"as it was, or make another artifact with 'ovseg {command}' and name it in the "
            "section artifacts"
        )


def _check_trained(model: dict[str, Any], section: dict[str, Any], source: str) -> None:
    trained = {"name": model.get("name", section["name"]), **model["options"]}
    then, now = _every_option(trained), _every_option(section)
    for key in ("name", *now):
        if key not in FREE_OPTIONS[section["name"]] and then.get(key) != now[key]:
            raise CheckpointError(
                f"{source}: trained with {key} {then.get(key)!r}, but the recipe's [proposer] says "
                f"{now[key]!r}; set proposer.{key} to what it was, or train again with "
                "'ovseg train-proposals'"
            )


def _every_option(section: dict[str, Any]) -> dict[str, Any]:
    """What a proposer's section says, and what it leaves to the defaults."""
    target, options = choose("proposer", section, PROPOSERS)
    parameters = inspect.signature(target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name != "clip"}
    given = options_for("proposer", options, target, given=("clip",))
    return {"name": section["name"], **defaults, **given}


def vocabulary_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """What an artifact's JSON says of the classes that it was trained with.

    Args:
        vocabulary: the classes whose masks were learned.
    """
    return {
        "names": list(vocabulary.names),
        "synonyms": [list(words) for words in vocabulary.synonyms],
        "is_thing": list(vocabulary.is_thing),
    }


def training_vocabulary(run: Run, recipe: Recipe) -> Vocabulary | None:
    """The classes that the proposals' training had masks of; None where nothing says so.

    Args:
        run: holds the proposals.
        recipe: says which, where it is not the newest.

    Raises:
        CheckpointError: the artifact's JSON is damaged.
    """
    name = next(iter(proposal_artifacts(run, recipe)), None)
    if name is None or not run.has_artifact("proposals", name):
        return None
    words = run.artifact_model("proposals", name).get("vocabulary")
    if words is None:
        return None
    try:
        return Vocabulary(
            names=tuple(words["names"]),
            synonyms=tuple(tuple(of_one) for of_one in words["synonyms"]),
            is_thing=tuple(words["is_thing"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run.artifact_path('proposals', name).with_suffix('.json')}: its 'vocabulary' cannot "
            f"be read ({error}); train again with 'ovseg train-proposals --run {run.path}'"
        ) from error


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
    _check_same_clip(run, recipe, f"clip/{name}", source, "tuned", "tune-clip")
    _check_base(model, recipe, source, made="tuned", command="tune-clip")
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
