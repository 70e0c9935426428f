"""`ovseg tune-clip`: tunes what turns masks into CLIP's embeddings, everything else frozen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ovseg_cli.checkpoints.plugged_tower import clip_artifacts, tower_name
from ovseg_cli.checkpoints.proposer_parts import proposal_artifacts
from ovseg_cli.checkpoints.run_parts import encoder_section, tuned_name
from ovseg_cli.errors import RecipeError, UsageError
from ovseg_cli.recipe import Recipe
from ovseg_cli.stages.maft_options import MaftOptions
from ovseg_cli.stages.masq_options import MasqOptions
from ovseg_cli.stages.ovseg_options import OvsegOptions
from ovseg_cli.stages.rma_options import RmaOptions
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    artifact_hashes,
    check_name,
    dataset_options,
    run_stage,
    train_split,
)
from ovseg_cli.stages.tune_maft import tune_maft
from ovseg_cli.stages.tune_masq import tune_masq
from ovseg_cli.stages.tune_ovseg import SECTIONS as OVSEG_SECTIONS
from ovseg_cli.stages.tune_ovseg import ovseg_inputs, tune_ovseg
from ovseg_cli.stages.tune_rma import tune_rma

SECTIONS = (
    "clip",
    "proposer",
    "mask_encoder",
    "vocabulary",
    "classification",
    "dataset",
    "tune_clip",
)


class Mode(NamedTuple):
    """A way of tuning.

    Attributes:
        tune: tunes and saves the artifact that it is given the name of; returns the figures to
            record. It is given the settings, the artifact's name, the checkpoint's name and the
            fingerprint.
        options: whose signature the recipe's section `tune_clip` fills.
        mask_encoder: the name of the mask encoder that it tunes.
        tuned: what the mask encoder's option `tuned` says where it is tuned so; None without any.
        inputs: what it reads, with hashes; None for proposals, CLIP and annotations.
        sections: the recipe's sections that decide the result.
    """

    tune: Callable[..., dict[str, Any]]
    options: Callable[..., Any]
    mask_encoder: str
    tuned: str | None = None
    inputs: Callable[[Settings], dict[str, str]] | None = None
    sections: tuple[str, ...] = SECTIONS


MODES: dict[str, Mode] = {
    "masq": Mode(tune_masq, MasqOptions, "mask_class_tokens"),
    "rma": Mode(tune_rma, RmaOptions, "relative_mask_attention"),
    **{
        tuned: Mode(tune_ovseg, OvsegOptions, "masked_crops", tuned, ovseg_inputs, OVSEG_SECTIONS)
        for tuned in ("mpt", "finetune", "joint")
    },
    "maft": Mode(tune_maft, MaftOptions, "image_proposals", sections=(*SECTIONS, "framing")),
}
DEFAULT_MODE = "masq"


def tune_clip(settings: Settings, *, mode: str | None = None) -> Outcome:
    """Tunes the run's CLIP for the run's proposals and saves what was tuned as clip/<name>.

    Args:
        settings: run directory, recipe, device.
        mode: what to tune, one of `MODES`; None for the recipe's `tune_clip.mode`.

    Raises:
        UsageError: there is no such mode.
        RecipeError: an option that cannot be used.
        RunError: the run directory lacks the CLIP or the proposals.
    """
    if mode is not None and mode not in MODES:
        raise UsageError(f"--mode {mode}: there is only {', '.join(MODES)}")
    if mode is not None:
        settings = replace(settings, recipe=of_mode(settings.recipe, mode))
    chosen = MODES[mode or mode_of(settings.recipe)]
    section = encoder_section(settings.recipe)
    artifact = tuned_name(settings.recipe)
    if section["name"] != chosen.mask_encoder or artifact is None:
        found = section["name"] if artifact else f"{section['name']} with nothing to tune"
        raise RecipeError(
            f"[mask_encoder]: this mode tunes {chosen.mask_encoder}, and the recipe has {found}; "
            "change the section or --mode"
        )
    _check_free(artifact, settings.recipe)
    if chosen.tuned is not None and section.get("tuned") != chosen.tuned:
        raise RecipeError(
            f"[mask_encoder] tuned: {section.get('tuned')}, and [tune_clip] mode is "
            f"{chosen.tuned}; set both to one, or give --mode"
        )
    checkpoint_name = f"tune-clip-{artifact}"
    return run_stage(
        settings,
        "tune-clip",
        lambda fingerprint: chosen.tune(settings, artifact, checkpoint_name, fingerprint),
        artifact=f"clip/{artifact}",
        sections=chosen.sections,
        inputs=(chosen.inputs or _inputs)(settings),
        checkpoint_name=checkpoint_name,
    )


def mode_of(recipe: Recipe) -> str:
    """The mode that a recipe's section `tune_clip` is written for.

    Raises:
        RecipeError: there is no such mode.
    """
    mode = recipe.section("tune_clip").get("mode", DEFAULT_MODE)
    if mode not in MODES:
        raise RecipeError(f"[tune_clip] mode: there is no {mode!r}; one of {', '.join(MODES)}")
    return str(mode)


def of_mode(recipe: Recipe, mode: str) -> Recipe:
    """The recipe for a mode that a command asks for, where it is not the one that it ends with.

    OVSeg's modes tune one mask encoder, whose `tuned` says which of them is the last. Any other
    stands before it or beside it: it begins with CLIP, and fine-tuning has no prompts then.

    Args:
        recipe: whose `mask_encoder` is that of the last mode.
        mode: one of `MODES`.
    """
    section, tuned = recipe.section("mask_encoder"), MODES[mode].tuned
    if tuned is None or section.get("name") != MODES[mode].mask_encoder:
        return recipe
    if section.get("tuned") == tuned:
        return recipe
    section |= {"tuned": tuned} | ({"prompts": 0} if tuned == "finetune" else {})
    options = {**recipe.section("tune_clip"), "start": None}
    changed = {"mask_encoder": section, "tune_clip": options}
    return replace(recipe, sections={**recipe.sections, **changed})


def _check_free(artifact: str, recipe: Recipe) -> None:
    check_name("artifacts", artifact, option="tuned")
    if artifact in ("base", tower_name(recipe)):
        raise RecipeError(
            f"[artifacts] tuned: {artifact!r} is the CLIP that is tuned; choose another name"
        )


def _inputs(settings: Settings) -> dict[str, str]:
    """The artifacts and annotations that decide the result, with their hashes."""
    recipe = settings.recipe
    names = [f"proposals/{name}" for name in proposal_artifacts(settings.run, recipe)]
    start = recipe.section("tune_clip").get("start")  # what some modes begin with
    parts = (*clip_artifacts(recipe), *([start] if isinstance(start, str) else []))
    hashes = artifact_hashes(settings, *names, *(f"clip/{part}" for part in parts))
    kind = dataset_options(settings).annotations
    annotations = (f"{kind}_{train_split(settings)}.json", "vocabulary.json")
    return hashes | annotation_hashes(settings, *annotations)
