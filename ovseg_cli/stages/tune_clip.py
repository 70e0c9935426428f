"""`ovseg tune-clip`: tunes what turns masks into CLIP's embeddings, everything else frozen."""

from collections.abc import Callable
from typing import Any

from ovseg_cli.checkpoints.run_parts import clip_of, proposals_name, proposer_of
from ovseg_cli.classification import Classification
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import RecipeError, UsageError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.recipe import Recipe, build, choose, options_for
from ovseg_cli.run import file_hash
from ovseg_cli.segmenter import VocabularyOptions
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    dataset_root,
    run_stage,
)
from ovseg_cli.stages.tune_masq import (
    MasqExamples,
    MasqOptions,
    masq_loss,
    seen_vocabulary,
    tuned_share,
)
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import fit
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_embeddings

SECTIONS = (
    "clip",
    "proposer",
    "mask_encoder",
    "vocabulary",
    "classification",
    "dataset",
    "tune_clip",
)


def tune_clip(settings: Settings, *, mode: str = "masq") -> Outcome:
    """Tunes the run's CLIP for the run's proposals and saves what was tuned as clip/<mode>.

    Args:
        settings: run directory, recipe, device.
        mode: what to tune, one of `MODES`.

    Raises:
        UsageError: there is no such mode.
        RecipeError: an option that cannot be used.
        RunError: the run directory lacks the CLIP or the proposals.
    """
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: there is only {', '.join(MODES)}")
    return run_stage(
        settings,
        "tune-clip",
        lambda fingerprint: MODES[mode](settings, fingerprint),
        artifact=f"clip/{mode}",
        sections=SECTIONS,
        inputs=_inputs(settings),
    )


def tune_masq(settings: Settings, fingerprint: str) -> dict[str, Any]:
    """MasQ-Tuning; saves clip/masq and returns the figures to record.

    Args:
        settings: run directory, recipe, device.
        fingerprint: of the settings, for the checkpoint.
    """
    recipe, device = settings.recipe, settings.device
    options = build("tune_clip", recipe.section("tune_clip"), MasqOptions)
    classification = build("classification", recipe.section("classification"), Classification)
    encoder_options = masq_encoder_options(recipe.section("mask_encoder"))
    _check(options, encoder_options, classification)
    dataset = CocoDataset(dataset_root(settings), _split(recipe))
    encoder = MaskClassTokens(
        clip_of(settings.run, recipe), **encoder_options, seed=recipe.seed
    ).to(device)
    needs_proposals = options.masks != "ground_truth"
    proposer = proposer_of(settings.run, recipe, device=device) if needs_proposals else None
    examples = MasqExamples(dataset, proposer, encoder, options=options, seed=recipe.seed)
    words = build("vocabulary", recipe.section("vocabulary"), VocabularyOptions)
    texts = text_embeddings(
        seen_vocabulary(dataset.vocabulary),
        encoder.clip.encode_text,
        templates=TEMPLATES[words.templates],
        background=classification.background,
    ).to(device)
    beginning = {name: value.clone() for name, value in encoder.tuned_tensors().items()}
    result = fit(
        encoder,
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: masq_loss(
            module, batch, text_embeddings=texts, scale=classification.scale, options=options
        ),
        optimizer=options.optimizer(encoder),
        schedule=options.schedule(),
        options=options.loop(settings.precision_or("fp32")),
        run=settings.run,
        stage="tune-clip",
        fingerprint=fingerprint,
        device=device,
    )
    tensors = tuned_share(beginning, encoder.tuned_tensors(), options.tuned_share)
    if distributed.is_main():
        model = {"mode": "masq", "base": "base", "mask_encoder": encoder_options}
        settings.run.save_artifact("clip", "masq", tensors, model)
    parameters = sum(value.numel() for value in tensors.values())
    return {
        "seconds": round(result.seconds, 1),
        "parameters": parameters,
        "skipped": result.skipped,
        "losses": result.losses,
    }


MODES: dict[str, Callable[[Settings, str], dict[str, Any]]] = {"masq": tune_masq}


def masq_encoder_options(section: dict[str, Any]) -> dict[str, Any]:
    """The options of the mask class tokens to tune, queries new unless the recipe says so.

    Args:
        section: the recipe's `mask_encoder`.

    Raises:
        RecipeError: another mask encoder, frozen queries, or an unknown option.
    """
    target, options = choose(
        "mask_encoder",
        section or {"name": "mask_class_tokens"},
        {"mask_class_tokens": MaskClassTokens},
    )
    options = options_for("mask_encoder", options, target, given=("clip", "seed"))
    if options.setdefault("query", "new") != "new":
        raise RecipeError("[mask_encoder] query: masq tunes new queries; set it to new")
    return options


def _check(
    options: MasqOptions, encoder_options: dict[str, Any], classification: Classification
) -> None:
    processes = distributed.world_size()
    if options.batch_size % processes:
        raise RecipeError(
            f"[tune_clip] batch_size: {options.batch_size} images cannot be shared out among "
            f"{processes} processes; choose a multiple"
        )
    if options.masks != "ground_truth" and options.image_size % 32:
        raise RecipeError(
            f"[tune_clip] image_size: {options.image_size} is not a multiple of 32, as the "
            "proposer needs"
        )
    if options.tuned_share != 1 and encoder_options.get("query_init") != "clip":
        raise RecipeError(
            "[tune_clip] tuned_share: weights between random and tuned queries mean nothing; set "
            "mask_encoder.query_init to clip, or tuned_share to 1"
        )
    if classification.background is None:
        raise RecipeError(
            "[classification] background: masq calls proposals that show no annotated mask by "
            "this word; set it to background"
        )


def _inputs(settings: Settings) -> dict[str, str]:
    """The artifacts and annotations that decide the result, with their hashes."""
    run, recipe = settings.run, settings.recipe
    artifacts = [("proposals", proposals_name(run))]
    if recipe.section("clip").get("name") != "open_clip":
        artifacts.append(("clip", "base"))
    hashes = {
        f"{kind}/{name}": file_hash(run.artifact_path(kind, name))
        for kind, name in artifacts
        if run.has_artifact(kind, name)
    }
    annotations = (f"panoptic_{_split(recipe)}.json", "vocabulary.json")
    return hashes | annotation_hashes(settings, *annotations)


def _split(recipe: Recipe) -> str:
    return str(recipe.section("dataset").get("train", "train"))
