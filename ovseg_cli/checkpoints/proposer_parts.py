"""The recipe's proposer: which weights of the run directory it takes, and the classes they know."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ovseg_cli.checkpoints.clip_parts import check_base, check_same_clip, clip_of
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
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
        check_same_clip(run, recipe, f"proposals/{name}", source, "trained", "train-proposals")
        parts["clip"] = clip or clip_of(run, recipe)
    proposer = build("proposer", options, target, **parts)
    if isinstance(proposer, ClipMask2Former):
        check_base(model, recipe, source, made="trained", command="train-proposals")
    load_weights(proposer, tensors, source=source)
    return proposer.to(device).eval().requires_grad_(False)


def takes_clip(target: Callable[..., Any]) -> bool:
    """Whether a part is built on a CLIP."""
    return "clip" in inspect.signature(target).parameters


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
