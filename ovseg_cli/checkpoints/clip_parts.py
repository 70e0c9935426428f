"""The recipe's CLIP from a run directory, and whether artifacts were made with that one."""

from typing import Any

from ovseg_cli.checkpoints.plugged_tower import (
    base_of,
    clip_artifacts,
    clip_section,
    put_tower,
    tower_name,
)
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import clip_from_artifact, load_open_clip
from ovseg_cli.errors import CheckpointError
from ovseg_cli.recipe import Recipe, build
from ovseg_cli.run import Run


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
        check_same_clip(run, recipe, f"clip/{tower}", source, "tuned", "tune-clip")
        put_tower(clip, tensors, source=source)
    return clip


def _own_clip(run: Run, section: dict[str, Any]) -> ClipEncoder:
    if section.get("name") == "open_clip":
        options = {key: value for key, value in section.items() if key != "name"}
        return build("clip", options, load_open_clip)
    tensors, model = run.load_artifact("clip", "base")
    return clip_from_artifact(tensors, model, source=str(run.artifact_path("clip", "base")))


def check_same_clip(
    run: Run, recipe: Recipe, artifact: str, source: str, made: str, command: str
) -> None:
    """Refuses what was made with a CLIP that has been made anew since.

    Args:
        run: records what each artifact was made from.
        recipe: says which CLIP.
        artifact: `kind/name`.
        source: its file, for messages.
        made: such as "tuned".
        command: that makes it, such as `tune-clip`.

    Raises:
        CheckpointError: it was.
    """
    parts = [f"clip/{name}" for name in clip_artifacts(recipe)]
    changed = [name for name in run.changed_inputs(artifact) if name in parts]
    if changed:
        raise CheckpointError(
            f"{source}: {made} for an earlier {changed[0]}; make it for the new one with "
            f"'ovseg {command} --run {run.path}'"
        )


def check_base(
    model: dict[str, Any], recipe: Recipe, source: str, *, made: str, command: str
) -> None:
    """Refuses what was made on another CLIP than the recipe's.

    Args:
        model: what the artifact's JSON says.
        recipe: says which CLIP.
        source: its file, for messages.
        made: such as "tuned".
        command: that makes it, such as `tune-clip`.

    Raises:
        CheckpointError: it was.
    """
    then, now = model.get("base", "base"), base_of(recipe)
    if then != now:
        raise CheckpointError(
            f"{source}: {made} on clip/{then}, but the recipe's CLIP is clip/{now}; set clip.tower "
            f"as it was, or make another artifact with 'ovseg {command}' and name it in the "
            "section artifacts"
        )
