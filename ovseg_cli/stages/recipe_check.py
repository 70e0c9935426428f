"""The whole recipe against the signatures it fills, before any stage spends an hour."""

from collections.abc import Callable
from typing import Any

from ..checkpoints.plugged_tower import clip_section, tower_name
from ..checkpoints.proposer_parts import ArtifactOptions
from ..classification import Classification
from ..clip.loading import load_open_clip
from ..clip.small import SMALL_CLIPS
from ..datasets.framing import FramingOptions
from ..errors import RecipeError
from ..inference import InferenceOptions
from ..mask_encoders import MASK_ENCODERS
from ..proposers import PROPOSERS, READY_PROPOSERS
from ..recipe import Recipe, choose, options_for
from ..segmenter import VocabularyOptions, options_of
from .distill import DistillOptions
from .evaluate_options import EvaluateOptions
from .make_shapes import ShapesOptions
from .mining_options import MineCaptionsOptions
from .proposal_options import TrainProposalsOptions
from .session import DatasetOptions, tuning_section
from .sweep import SECTION as SWEEP
from .sweep import SweepOptions
from .targets import SECTION as TARGETS
from .targets import check_targets
from .train_clip import TrainClipOptions
from .tune_clip import MODES, mode_of

CLIPS: dict[str, Callable[..., Any]] = {**SMALL_CLIPS, "open_clip": load_open_clip}
PARTS: dict[str, dict[str, Callable[..., Any]]] = {
    "clip": CLIPS,
    "proposer": {**PROPOSERS, **READY_PROPOSERS},
    "mask_encoder": dict(MASK_ENCODERS),
    "in_vocabulary": dict(MASK_ENCODERS),
}
SCHEMAS: dict[str, Callable[..., Any]] = {
    "artifacts": ArtifactOptions,
    "dataset": DatasetOptions,
    "shapes": ShapesOptions,
    "framing": FramingOptions,
    "vocabulary": VocabularyOptions,
    "classification": Classification,
    "inference": InferenceOptions,
    "train_clip": TrainClipOptions,
    "train_proposals": TrainProposalsOptions,
    "distill": DistillOptions,
    "mine_captions": MineCaptionsOptions,
    "evaluate": EvaluateOptions,
}
BUILT_ELSEWHERE = ("clip", "seed")


def check_recipe(recipe: Recipe) -> None:
    """Checks every option of every section that the recipe has, and that classifiers fit.

    Raises:
        RecipeError: the first option that is unknown, missing or of another type; an ensemble of
            which one part is missing.
    """
    for section in recipe.sections:
        options = recipe.section(section)
        if not options:
            continue
        if section == TARGETS:
            check_targets(recipe)
            continue
        if section == "tune_clip":
            target, options = MODES[mode_of(recipe)].options, tuning_section(recipe)
        elif section == "clip":
            tower_name(recipe)
            target, options = choose(section, clip_section(recipe), PARTS[section])
        elif section in PARTS:
            target, options = choose(section, options, PARTS[section])
        elif section in SCHEMAS:
            target = SCHEMAS[section]
        else:
            raise RecipeError(f"[{section}]: nothing reads this section; remove it")
        checked = options_for(section, options, target, given=BUILT_ELSEWHERE)
        if section == "evaluate" and checked.get("sweep") is not None:
            options_for(SWEEP, checked["sweep"], SweepOptions)
    options_of(recipe)
