"""Tuning CLIP to masked crops: mask prompts, the image tower, or both, on pairs of mask and noun.

OVSeg (Liang et al., CVPR 2023), section 3.3; the recipe of the released trainer. The text tower is
frozen, and reads every noun once. Differs: equal nouns of a batch are no negatives of one another,
unless they are asked to be.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.plugged_tower import base_of, clip_artifacts
from ovseg_cli.checkpoints.run_parts import tuned_part
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.losses.contrastive import contrastive_losses
from ovseg_cli.mask_encoders.masked_crops import TOWER, MaskedCrops
from ovseg_cli.recipe import build, choose
from ovseg_cli.run import file_hash
from ovseg_cli.segmenter import text_key
from ovseg_cli.stages.learning import fit_in_run
from ovseg_cli.stages.ovseg_examples import Batch, OvsegExamples
from ovseg_cli.stages.ovseg_options import PROMPTS, OvsegOptions
from ovseg_cli.stages.ovseg_pairs import AnnotatedPairs, CaptionPairs, JoinedPairs, Pairs
from ovseg_cli.stages.session import (
    Settings,
    annotation_hashes,
    artifact_hashes,
    dataset_of,
    dataset_options,
    train_split,
    tuning_section,
)
from ovseg_cli.stages.training_images import check_shares
from ovseg_cli.structures import Vocabulary
from ovseg_cli.training import distributed
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder, text_embeddings

SECTIONS = ("clip", "mask_encoder", "vocabulary", "dataset", "tune_clip")
LARGEST_SCALE = math.log(100)


class CropsAndScale(nn.Module):
    """Masked crops and the temperature that is learned with them.

    Args:
        encoder: what is tuned of it requires a gradient.
        logit_scale: the logarithm of the temperature's factor to begin with.
    """

    def __init__(self, encoder: MaskedCrops, logit_scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def forward(
        self, crops: Float[Tensor, "N 3 R R"], masks: Bool[Tensor, "N R R"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, ""]]:
        """Crops in the joint space, not normalised, and the factor, 1 to 100.

        Args:
            crops: RGB, 0 to 255.
            masks: True inside.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(0, LARGEST_SCALE)
        return self.encoder(crops, masks), self.logit_scale.exp()


def tune_ovseg(
    settings: Settings, artifact: str, checkpoint_name: str, fingerprint: str
) -> dict[str, Any]:
    """Tunes what the mask encoder's `tuned` names; saves clip/<artifact>, returns the figures.

    Args:
        settings: run directory, recipe, device.
        artifact: the name to save it by.
        checkpoint_name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.

    Raises:
        RecipeError: an option that cannot be used.
        RunError: the run directory lacks the CLIP, or what to begin with.
        InputError: there are no pairs.
        CheckpointError: what to begin with does not fit, or was tuned for another CLIP.
    """
    recipe, device = settings.recipe, settings.device
    options = _options(settings)
    check_shares("tune_clip", options.batch_size)
    if options.start == artifact:
        raise RecipeError(
            f"[tune_clip] start: {artifact} is what this tuning makes; name its result otherwise "
            "with artifacts.tuned"
        )
    pairs = _pairs(settings, options)
    clip = clip_of(settings.run, recipe)
    module = _beginning(settings, options, clip).to(device)
    encoder = module.encoder
    examples = OvsegExamples(pairs, encoder, options=options, seed=recipe.seed)
    texts = _texts(settings, options, encoder.clip, examples.nouns).to(device)
    result = fit_in_run(
        settings,
        options,
        module,
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: crop_losses(
            module, batch, texts=texts, duplicates=options.duplicates
        ),
        name=checkpoint_name,
        fingerprint=fingerprint,
    )
    scale = min(max(float(module.logit_scale.detach()), 0.0), LARGEST_SCALE)
    if distributed.is_main():
        section = recipe.section("mask_encoder")
        model = {"mode": section["tuned"], "base": base_of(recipe), "start": options.start}
        model |= {"mask_encoder": section, "logit_scale": scale}
        settings.run.save_artifact("clip", artifact, encoder.tuned_tensors(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        "pairs": len(pairs),
        "nouns": len(examples.nouns),
        "temperature": math.exp(scale),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def ovseg_inputs(settings: Settings) -> dict[str, str]:
    """What decides the result beside the recipe, with hashes.

    Args:
        settings: run directory and recipe.
    """
    options = _options(settings)
    names = (*clip_artifacts(settings.recipe), *([options.start] if options.start else ()))
    hashes = artifact_hashes(settings, *(f"clip/{name}" for name in names))
    manifest = settings.run.path / "pairs" / "manifest.json"
    if options.pairs != "ground_truth" and manifest.is_file():
        hashes["pairs/manifest.json"] = file_hash(manifest)
    if options.pairs == "mined":
        return hashes
    annotations = f"{dataset_options(settings).annotations}_{train_split(settings)}.json"
    return hashes | annotation_hashes(settings, annotations, "vocabulary.json")


def crop_losses(
    module: nn.Module, batch: Batch, *, texts: Float[Tensor, "U D"], duplicates: str
) -> dict[str, Tensor]:
    """CLIP's contrastive losses of crops and their nouns, over the global batch.

    Args:
        module: a `CropsAndScale`, wrapped or not.
        batch: on the texts' device.
        texts: the embeddings of all nouns.
        duplicates: `positives` or `negatives`, see `OvsegOptions`.
    """
    crops, scale = module(batch.crops, batch.masks)
    ids = batch.nouns
    if duplicates == "negatives":
        ids = torch.arange(len(ids), device=ids.device) + distributed.rank() * len(ids)
    return contrastive_losses(
        crops, texts[batch.nouns], image_texts=ids[:, None], text_ids=ids, scale=scale
    )


def begin_with(encoder: MaskedCrops, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Gives a mask encoder the image tower and the prompts of one that was tuned before.

    Args:
        encoder: its tower is frozen unless it is to be tuned.
        tensors: of a clip artifact, from `tuned_tensors`.
        source: where they come from, for messages.

    Raises:
        CheckpointError: it holds neither, or what does not fit.
    """
    tower = {name.removeprefix(TOWER): t for name, t in tensors.items() if name.startswith(TOWER)}
    prompts = {name.removeprefix(PROMPTS): t for name, t in tensors.items() if PROMPTS in name}
    if not tower and not prompts:
        raise CheckpointError(
            f"{source}: has neither an image tower nor mask prompts to begin with; set "
            "tune_clip.start to what 'ovseg tune-clip' made in a mode such as finetune"
        )
    if prompts and encoder.mask_prompts is None:
        raise CheckpointError(
            f"{source}: has mask prompts, and [mask_encoder] prompts is 0; set it to their depth"
        )
    if tower:
        encoder.load_tower(tower, source=source)
    if prompts and encoder.mask_prompts is not None:
        load_weights(encoder.mask_prompts, prompts, source=source)


def _options(settings: Settings) -> OvsegOptions:
    return build("tune_clip", tuning_section(settings.recipe), OvsegOptions)


def _pairs(settings: Settings, options: OvsegOptions) -> Pairs:
    parts: list[Pairs] = []
    if options.pairs != "ground_truth":
        parts.append(CaptionPairs(MinedPairs(settings.run.path / "pairs"), options))
    if options.pairs != "mined":
        dataset = dataset_of(settings, train_split(settings), part="seen")
        parts.append(AnnotatedPairs(dataset, cached_images=options.cached_images))
    return parts[0] if len(parts) == 1 else JoinedPairs(parts)


def _beginning(settings: Settings, options: OvsegOptions, clip: ClipEncoder) -> CropsAndScale:
    recipe, run = settings.recipe, settings.run
    target, chosen = choose(
        "mask_encoder", recipe.section("mask_encoder"), {"masked_crops": MaskedCrops}
    )
    encoder = build("mask_encoder", chosen, target, clip=clip, seed=recipe.seed)
    scale, prompted = math.log(clip.logit_scale), False
    if options.start is not None:
        tensors, model = tuned_part(run, recipe, options.start)
        begin_with(encoder, tensors, source=str(run.artifact_path("clip", options.start)))
        scale = float(model.get("logit_scale", scale))
        prompted = any(PROMPTS in name for name in tensors)
    if encoder.mask_prompts is not None and encoder.tuned == "finetune" and not prompted:
        raise RecipeError(
            "[mask_encoder] prompts: fine-tuning leaves them as they are, and these are random; "
            "set prompts to 0, or tune_clip.start to an artifact with trained ones"
        )
    return CropsAndScale(encoder, scale)


def _texts(
    settings: Settings, options: OvsegOptions, clip: ClipEncoder, nouns: tuple[str, ...]
) -> Float[Tensor, "U D"]:
    """Every noun's embedding, from the disk where it was made before."""
    words = Vocabulary(nouns, tuple((noun,) for noun in nouns), (True,) * len(nouns))
    return text_embeddings(
        words,
        clip.encode_text,
        templates=TEMPLATES[options.templates],
        cache=text_cache_folder(),
        model_key=text_key(settings.run, settings.recipe),
    ).embeddings
