"""The parts of a run directory's segmenter: the newest proposals, its CLIP, what was tuned."""

from pathlib import Path
from typing import Any

import torch

from ovseg_cli.checkpoints.catalogue import TINY, TINY_NAME
from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.proposer_parts import proposer_of, takes_clip, training_vocabulary
from ovseg_cli.checkpoints.run_parts import artifacts_of, mask_encoder_of
from ovseg_cli.classification import Classification
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import RecipeError, RunError
from ovseg_cli.inference import InferenceOptions
from ovseg_cli.proposers import PROPOSERS
from ovseg_cli.recipe import Recipe, build
from ovseg_cli.run import Run, file_hash
from ovseg_cli.segmenter.words import VocabularyOptions
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary.labels import parse_labels


def run_of(run: Run | Path | str) -> Run:
    """A run directory by its path, or by "tiny", the model in the box.

    Args:
        run: a path, or the run directory itself.

    Raises:
        RunError: there is no run directory.
    """
    if isinstance(run, Run):
        return run
    folder = TINY if run == TINY_NAME and not Path(run).exists() else Path(run)
    if not (folder / "recipe.yaml").is_file():
        raise RunError(
            f"{folder}: no run directory, there is no recipe.yaml in it; give another, or "
            '"tiny" for the model in the box'
        )
    return Run(folder)


def parts_of(
    run: Run,
    recipe: Recipe,
    *,
    device: torch.device,
    with_proposer: bool = True,
    text_cache: Path | None = None,
) -> dict[str, Any]:
    """The arguments of a `Segmenter`, by name.

    Args:
        run: holds the artifacts.
        recipe: says which.
        device: where to compute.
        with_proposer: False where masks are always handed in.
        text_cache: a folder that keeps text embeddings from one process to the next.

    Raises:
        RunError: an artifact is missing; the message names the command that makes it.
        RecipeError: an option that cannot be used.
        CheckpointError: an artifact is damaged or of another model.
    """
    options = options_of(recipe)
    clip = clip_of(run, recipe).to(device).eval()
    proposer = proposer_of(run, recipe, device=device, clip=clip) if with_proposer else None
    encoder = mask_encoder_of(run, recipe, clip, device=device)
    section = recipe.section("in_vocabulary")
    second = section and mask_encoder_of(run, recipe, clip, device=device, section=section)
    return {
        "proposer": proposer,
        "mask_encoder": encoder,
        "clip": clip,
        "in_vocabulary": second or None,
        "training_vocabulary": _training_vocabulary(run, recipe, options["vocabulary"]),
        "device": device,
        "text_cache": text_cache,
        "text_key": text_key(run, recipe) if text_cache else "",
        **options,
    }


def options_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe's `classification`, `inference`, `framing` and `vocabulary`, checked.

    Raises:
        RecipeError: an option that cannot be used; an in-vocabulary classifier that is not there.
    """
    kinds = {
        "classification": Classification,
        "inference": InferenceOptions,
        "framing": FramingOptions,
        "vocabulary": VocabularyOptions,
    }
    options = {name: build(name, recipe.section(name), kind) for name, kind in kinds.items()}
    if options["classification"].needs_in_vocabulary and not _has_in_vocabulary(recipe):
        raise RecipeError(
            "[classification] an ensemble, or in_vocabulary alone, needs a classifier trained on "
            "the seen classes: set in_vocabulary.name to a mask encoder, such as tuned "
            "mask_class_tokens, or proposer.name to clip_mask2former; or set ensemble to none and "
            "classifier to out_of_vocabulary"
        )
    return options


def _has_in_vocabulary(recipe: Recipe) -> bool:
    """Whether there is a second mask encoder, or a proposer with embeddings in CLIP's space."""
    name = recipe.section("proposer").get("name")
    return bool(recipe.section("in_vocabulary")) or (
        name in PROPOSERS and takes_clip(PROPOSERS[name])
    )


def _training_vocabulary(run: Run, recipe: Recipe, options: VocabularyOptions) -> Vocabulary | None:
    """What the proposals were trained on, by themselves or else by the recipe."""
    found = training_vocabulary(run, recipe)
    if found is None and options.training is not None:
        return parse_labels(options.training)
    return found


def text_key(run: Run, recipe: Recipe) -> str:
    """What tells the recipe's text tower from others where text embeddings are kept.

    Args:
        run: holds clip/base unless the recipe names open_clip.
        recipe: its section `clip`.
    """
    if "clip/base" in artifacts_of(run, recipe, proposer=False):
        return file_hash(run.artifact_path("clip", "base"))
    return str(sorted(recipe.section("clip").items()))
