"""A tuned image tower in the place of CLIP's own, for any recipe: `clip.tower: NAME`.

MAFT (Jiao et al., NeurIPS 2023), section 4.4, puts its tower into other systems.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.recipe import Recipe

OPTION = "tower"
VISUAL = "visual."  # the image tower's tensors in an artifact


def clip_section(recipe: Recipe) -> dict[str, Any]:
    """The section `clip` without the tower that is put into it."""
    return {key: value for key, value in recipe.section("clip").items() if key != OPTION}


def tower_name(recipe: Recipe) -> str | None:
    """The artifact in clip/ whose image tower takes the place of CLIP's; None where none does.

    Raises:
        RecipeError: `clip.tower` is no name.
    """
    name = recipe.section("clip").get(OPTION)
    if name is not None and not isinstance(name, str):
        raise RecipeError(
            f"[clip] {OPTION}: expected the name of a tuned clip artifact, found {name!r}"
        )
    return name


def base_of(recipe: Recipe) -> str:
    """What a tuned artifact sits on, by its name in clip/: CLIP itself, or one with a tower."""
    return tower_name(recipe) or "base"


def clip_artifacts(recipe: Recipe) -> tuple[str, ...]:
    """The names in clip/ that the recipe's CLIP is made of."""
    own = () if recipe.section("clip").get("name") == "open_clip" else ("base",)
    tower = tower_name(recipe)
    return own if tower is None else (*own, tower)


def put_tower(clip: ClipEncoder, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Replaces the weights of CLIP's image tower.

    Args:
        clip: changed in place.
        tensors: of an artifact that `tune-clip` made.
        source: where they come from, for messages.

    Raises:
        CheckpointError: there is no image tower among them, or one of another kind.
    """
    tower = {n.removeprefix(VISUAL): t for n, t in tensors.items() if n.startswith(VISUAL)}
    if not tower:
        raise CheckpointError(
            f"{source}: holds no image tower, as [clip] {OPTION} needs; name what "
            "'ovseg tune-clip' made in a mode such as maft, or take the option out"
        )
    load_weights(clip.model.visual, tower, source=source)
