"""The artifacts of a run directory that the parts of a released file become."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ovseg_cli.checkpoints.fitted_parts import fitted, proposer_state, tuned_state
from ovseg_cli.checkpoints.plugged_tower import OPTION, VISUAL, base_of
from ovseg_cli.checkpoints.proposer_parts import takes_clip
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.checkpoints.run_parts import encoder_section, tuned_name
from ovseg_cli.clip.architectures import PRETRAINED, architecture_of, weightless_clip
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers import PROPOSERS
from ovseg_cli.recipe import Recipe

TEXT_TOWER = "token_embedding.weight"
RELEASED = "released"  # the name of proposals and towers that came out of a file


@dataclass(frozen=True)
class ImportedPart:
    """An artifact to be written.

    Attributes:
        tensors: the file's, by our names.
        model: the JSON beside them.
        sits_on: the artifacts, as `kind/name`, that it is of no use without.
    """

    tensors: dict[str, Tensor]
    model: dict[str, Any]
    sits_on: tuple[str, ...] = ()


def imported_artifacts(
    parts: ReleasedParts, recipe: Recipe, *, source: str, said: Collection[str] = ()
) -> tuple[Recipe, dict[str, ImportedPart], str]:
    """The recipe of these weights, the artifacts by `kind/name`, and where CLIP comes from.

    Args:
        parts: of the file.
        recipe: that they go with; sizes and architectures that shapes tell are not asked of it.
        source: the file's name, for messages.
        said: the recipe's sections and options (`section.option`) that the file does not change.

    Raises:
        RecipeError: options that cannot be used.
        CheckpointError: tensors that are missing or of other shapes.
    """
    recipe = _with_options(recipe, parts.options, said)
    recipe, artifacts, clip, sentence = _clip_artifacts(parts, recipe, source=source)
    if parts.proposer:
        section = recipe.section("proposer")
        state = proposer_state(recipe, clip)
        tensors = fitted(parts.proposer, state, source=source, what=f"a {section['name']}")
        model = {"name": section["name"], "options": section}
        reads_clip = takes_clip(PROPOSERS[section["name"]])
        model |= {"base": base_of(recipe)} if reads_clip else {}
        below = tuple(artifacts) if reads_clip else ()
        artifacts[f"proposals/{RELEASED}"] = ImportedPart(tensors, model, below)
    name = tuned_name(recipe)
    if parts.tuned and name is not None:
        section = encoder_section(recipe)
        state, what = tuned_state(recipe, clip), f"tuned {section['name']}"
        tensors = fitted(parts.tuned, state, source=source, what=what)
        model = {"mode": RELEASED, "base": base_of(recipe), "mask_encoder": section}
        below = tuple(below for below in artifacts if below.startswith("clip/"))
        artifacts[f"clip/{name}"] = ImportedPart(tensors, model, below)
    return recipe, artifacts, sentence


def _clip_artifacts(
    parts: ReleasedParts, recipe: Recipe, *, source: str
) -> tuple[Recipe, dict[str, ImportedPart], ClipEncoder, str]:
    """CLIP's own artifact, and the recipe that reads it from there."""
    section = recipe.section("clip")
    own = str(section.get("architecture", ""))
    if not parts.clip:
        tag = f"open_clip's {own} ({section.get('pretrained')}), fetched when it is first used"
        return recipe, {}, weightless_clip(own), tag
    visual = {n.removeprefix(VISUAL): t for n, t in parts.clip.items() if n.startswith(VISUAL)}
    architecture = architecture_of(visual, first=own)
    if architecture is None:
        raise CheckpointError(
            f"{source}: its CLIP is none of {', '.join(dict.fromkeys((own, *PRETRAINED)))}; name "
            "open_clip's architecture of it with --set clip.architecture=NAME"
        )
    clip = weightless_clip(architecture)
    if TEXT_TOWER in parts.clip:
        state, what = clip.model.state_dict(), f"open_clip's {architecture}"
        tensors = fitted(parts.clip, state, source=source, what=what)
        model = {"architecture": "open_clip", "options": {"architecture": architecture}}
        whole = _with_section(recipe, "clip", {})
        return (
            whole,
            {"clip/base": ImportedPart(tensors, model)},
            clip,
            f"the file's own {architecture}",
        )
    if architecture != own:
        section |= {"architecture": architecture, "pretrained": PRETRAINED[architecture]}
    recipe = _with_section(recipe, "clip", {**section, OPTION: RELEASED})
    tower = ImportedPart({f"{VISUAL}{name}": t for name, t in visual.items()}, {"mode": RELEASED})
    text = f"the file's image tower in open_clip's {architecture} ({section['pretrained']})"
    return recipe, {f"clip/{RELEASED}": tower}, clip, f"{text}, fetched when it is first used"


def _with_options(
    recipe: Recipe, options: Mapping[str, Mapping[str, Any]], said: Collection[str]
) -> Recipe:
    for section, found in options.items():
        changed = {key: value for key, value in found.items() if f"{section}.{key}" not in said}
        if changed and section not in said:
            recipe = _with_section(recipe, section, {**recipe.section(section), **changed})
    return recipe


def _with_section(recipe: Recipe, section: str, options: dict[str, Any]) -> Recipe:
    return replace(recipe, sections={**recipe.sections, section: options})


def key_map_of(
    state: Mapping[str, Tensor], artifacts: Mapping[str, ImportedPart]
) -> tuple[dict[str, dict[str, str | None]], tuple[str, ...]]:
    """By artifact, our names and the file's; and the file's names that are in none.

    Translators only rename, so that a tensor is known again by where its values are.

    Args:
        state: the file's tensors.
        artifacts: made of them.
    """
    names = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.numel()}
    key_map = {
        artifact: {ours: names.get(tensor.data_ptr()) for ours, tensor in part.tensors.items()}
        for artifact, part in artifacts.items()
    }
    taken = {tensor.data_ptr() for part in artifacts.values() for tensor in part.tensors.values()}
    return key_map, tuple(n for n, t in state.items() if t.data_ptr() not in taken)
