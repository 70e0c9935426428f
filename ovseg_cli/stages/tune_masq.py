"""MasQ-Tuning: new query projections that make CLIP's class token fit for masks.

MasQCLIP (Xu et al., ICCV 2023), section 3.3; labels and loss as in the released code. Proposer,
CLIP and texts are frozen, so each image's visible patches and labels are worked out once and kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ovseg_cli.checkpoints.run_parts import clip_of, proposer_of
from ovseg_cli.classification import Classification, class_logits
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.device import Precision
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.losses.classification import IGNORED, assign_labels, weighted_cross_entropy
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.proposers import Proposer
from ovseg_cli.recipe import Share, build, choose, options_for
from ovseg_cli.segmenter import VocabularyOptions
from ovseg_cli.stages.session import Settings, dataset_root, train_split, tuning_section
from ovseg_cli.structures import Frame, FramedImage, Sample, TextEmbeddings, Vocabulary
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import Decay, adamw, schedule
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_embeddings

Masks = Literal["proposals", "ground_truth", "both"]


@dataclass(frozen=True)
class MasqOptions:
    """How to tune; the defaults are the paper's, as released.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        image_size: side in pixels of the square that training images are squashed to.
        flip: whether every other image is mirrored.
        masks: whose masks are classified: the proposer's, the annotated ones, or both.
        overlap: what tells whether a proposal shows an annotated mask.
        overlap_threshold: an overlap above it does.
        background_weight: of proposals that show none, against 1.
        loss_weight: of the cross-entropy.
        per_process_mean: average over each process's proposals, as released, not over everybody's.
        lr: the learning rate.
        weight_decay: decoupled, of queries and position alike.
        decay: of the learning rate: `none`, `step` or `cosine`.
        milestone: the share of the steps before the drop of `step`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        tuned_share: the weights that are kept are this share of the way from where tuning began to
            where it ended; 1 is the end (published), less keeps more of CLIP (WiSE-FT, Wortsman
            et al., CVPR 2022) and needs the mask encoder's init "clip".
    """

    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 4
    image_size: PositiveInt = 1024
    flip: bool = True
    masks: Masks = "proposals"
    overlap: Literal["dice", "iou"] = "dice"
    overlap_threshold: Share = 0.6
    background_weight: NonNegativeFloat = 0.1
    loss_weight: NonNegativeFloat = 2.0
    per_process_mean: bool = False
    lr: NonNegativeFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.05
    decay: Decay = "step"
    milestone: Share = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01
    tuned_share: NonNegativeFloat = 1.0

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        return LoopOptions(self.steps, gradient_clip=self.gradient_clip, precision=precision)

    def optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW over what is tuned."""
        return adamw(module, lr=self.lr, weight_decay=self.weight_decay)

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rate at each step."""
        return schedule(
            steps=self.steps, warmup=self.warmup, decay=self.decay, milestone=self.milestone
        )


def tune_masq(
    settings: Settings, artifact: str, checkpoint_name: str, fingerprint: str
) -> dict[str, Any]:
    """MasQ-Tuning; saves clip/<artifact> and returns the figures to record.

    Args:
        settings: run directory, recipe, device.
        artifact: the name to save it by.
        checkpoint_name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.
    """
    recipe, device = settings.recipe, settings.device
    options = build("tune_clip", tuning_section(recipe), MasqOptions)
    classification = build("classification", recipe.section("classification"), Classification)
    encoder_options = masq_encoder_options(recipe.section("mask_encoder"))
    _check(options, encoder_options, classification)
    dataset = CocoDataset(dataset_root(settings), train_split(settings))
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
        stage=checkpoint_name,
        fingerprint=fingerprint,
        device=device,
    )
    tensors = tuned_share(beginning, encoder.tuned_tensors(), options.tuned_share)
    if distributed.is_main():
        tuned = {"variant": encoder.variant, "init": encoder.init}
        model = {"mode": "masq", "base": "base", "mask_encoder": tuned}
        settings.run.save_artifact("clip", artifact, tensors, model)
    parameters = sum(value.numel() for value in tensors.values())
    return {
        "seconds": round(result.seconds, 1),
        "parameters": parameters,
        "skipped": result.skipped,
        "losses": result.losses,
    }


def masq_encoder_options(section: dict[str, Any]) -> dict[str, Any]:
    """The options of the mask class tokens to tune.

    Args:
        section: the recipe's `mask_encoder`.

    Raises:
        RecipeError: another mask encoder, or an unknown option.
    """
    target, options = choose(
        "mask_encoder",
        section or {"name": "mask_class_tokens"},
        {"mask_class_tokens": MaskClassTokens},
    )
    return options_for("mask_encoder", options, target, given=("clip", "seed"))


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
    if options.tuned_share != 1 and encoder_options.get("init") != "clip":
        raise RecipeError(
            "[tune_clip] tuned_share: weights between random and tuned ones mean nothing; set "
            "mask_encoder.init to clip, or tuned_share to 1"
        )
    if classification.background is None:
        raise RecipeError(
            "[classification] background: masq calls proposals that show no annotated mask by "
            "this word; set it to background"
        )


class Batch(NamedTuple):
    """Images with the masks to classify.

    Attributes:
        images: RGB, 0 to 255.
        visible: the patches that each mask's token sees.
        labels: class indices, the background's last; -100 where an image has fewer masks.
    """

    images: Float[Tensor, "B 3 S S"]
    visible: Bool[Tensor, "B N P"]
    labels: Int[Tensor, "B N"]


class _Kept(NamedTuple):
    visible: Tensor  # packed bits
    labels: Tensor


class MasqExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated classes that are seen are learned, other annotations left out.
        proposer: frozen; None where only annotated masks are classified.
        encoder: gives the size at which masks are compared and the patches they cover.
        options: the batch, and how masks get labels.
        seed: of order and mirroring.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        proposer: Proposer | None,
        encoder: MaskClassTokens,
        *,
        options: MasqOptions,
        seed: int,
    ) -> None:
        self.dataset, self.proposer, self.encoder = dataset, proposer, encoder
        self.options, self.seed = options, seed
        self.background, self.label_of = seen_labels(dataset.vocabulary)
        self.indices = [i for i, record in enumerate(dataset.records) if record.segments]
        if not self.indices or not self.background:
            raise InputError(
                f"{dataset.name}: no annotated masks of seen classes to tune on; use another split"
            )
        self._kept: dict[tuple[int, bool], _Kept] = {}

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it."""
        share = self.options.batch_size // distributed.world_size()
        first = step * self.options.batch_size + distributed.rank() * share
        examples = [self.example(*self.drawn(first + offset)) for offset in range(share)]
        images, visible, labels = zip(*examples, strict=True)
        return Batch(
            torch.stack(images),
            pad_sequence(list(visible), batch_first=True, padding_value=False),
            pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
        )

    def drawn(self, position: int) -> tuple[int, bool]:
        """Which image stands at a position of the endless sequence, and whether mirrored."""
        epoch, place = divmod(position, len(self.indices))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.indices), generator=generator)
        mirrored = torch.rand(len(self.indices), generator=generator) < 0.5
        return self.indices[int(order[place])], self.options.flip and bool(mirrored[place])

    def example(self, index: int, mirrored: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Image (3, S, S), visible patches (N, P) and labels (N,) of one image."""
        size, side = self.options.image_size, self.encoder.clip.visual.grid_size[0]
        image = square(self.dataset.image(index), size, mirrored)
        key = (index, mirrored)
        if key not in self._kept:
            visible, labels = self._examine(image, self.dataset[index], mirrored)
            self._kept[key] = _Kept(_packed(visible), labels.to(torch.int16))
        kept = self._kept[key]
        return image, _unpacked(kept.visible, side**2), kept.labels.long()

    @torch.no_grad()
    def _examine(self, image: Tensor, sample: Sample, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Visible patches and labels of an image's masks."""
        device = self.encoder.clip.device
        gt_masks, gt_labels = self._ground_truth(sample, mirrored)
        logits = gt_masks.float()[None] * 2 - 1
        visible, labels = [], []
        if self.proposer is not None and self.options.masks != "ground_truth":
            frame = Frame(*((self.options.image_size,) * 2 for _ in range(3)))
            proposals = self.proposer.propose(FramedImage(image.to(device), frame))
            visible.append(self.encoder.visible_patches(proposals.mask_logits[None])[0])
            labels.append(self._labels(proposals.mask_logits, gt_masks, gt_labels))
        if self.options.masks != "proposals":
            visible.append(self.encoder.visible_patches(logits.to(device))[0])
            labels.append(gt_labels)
        return torch.cat(visible).cpu(), torch.cat(labels).cpu()

    def _labels(self, mask_logits: Tensor, gt_masks: Tensor, gt_labels: Tensor) -> Tensor:
        side = self.encoder.clip.resolution
        at_clip = F.interpolate(mask_logits[None].float(), (side, side), mode="bilinear")[0]
        gt_at_clip = F.interpolate(gt_masks[None].float(), (side, side), mode="nearest")[0]
        return assign_labels(
            at_clip > 0,
            gt_at_clip.to(at_clip.device) > 0.5,
            gt_labels.to(at_clip.device),
            background=self.background,
            overlap=self.options.overlap,
            threshold=self.options.overlap_threshold,
        ).labels.cpu()

    def _ground_truth(self, sample: Sample, mirrored: bool) -> tuple[Tensor, Tensor]:
        labels = self.label_of[sample.labels]
        learned = ~sample.is_crowd & (labels != IGNORED)
        masks = sample.masks[learned].flip(-1) if mirrored else sample.masks[learned]
        return masks, labels[learned]


def seen_labels(vocabulary: Vocabulary) -> tuple[int, Int[Tensor, " K"]]:
    """The background's label, and for each class its label among the seen ones, -100 if unseen."""
    seen = torch.tensor(vocabulary.seen or (True,) * len(vocabulary))
    labels = torch.where(seen, seen.cumsum(0) - 1, IGNORED)
    return int(seen.sum()), labels


def seen_vocabulary(vocabulary: Vocabulary) -> Vocabulary:
    """The classes that training has masks of; all of them where that is not known."""
    kept = [i for i in range(len(vocabulary)) if not vocabulary.seen or vocabulary.seen[i]]

    def of(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in kept)

    return Vocabulary(
        of(vocabulary.names),
        of(vocabulary.synonyms),
        of(vocabulary.is_thing),
        (True,) * len(kept),
    )


def masq_loss(
    encoder: nn.Module,
    batch: Batch,
    *,
    text_embeddings: TextEmbeddings,
    scale: float,
    options: MasqOptions,
) -> dict[str, Tensor]:
    """The weighted cross-entropy of the masks' labels, background included, in float32.

    Args:
        encoder: a `MaskClassTokens`, wrapped or not.
        batch: on any device, brought to the texts'.
        text_embeddings: of the seen classes and the background, which is last; on the encoder's
            device.
        scale: CLIP's temperature.
        options: the weights.
    """
    device = text_embeddings.embeddings.device
    images, visible, labels = (part.to(device, non_blocking=True) for part in batch)
    embeddings = encoder(images, visible)
    with torch.autocast(device.type, enabled=False):
        logits = class_logits(embeddings.flatten(0, 1).float(), text_embeddings, scale=scale)
        loss = weighted_cross_entropy(
            logits,
            labels.flatten(),
            background_weight=options.background_weight,
            per_process_mean=options.per_process_mean,
        )
    return {"classification": options.loss_weight * loss}


def tuned_share(
    beginning: dict[str, Tensor], end: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights on the straight line from the beginning of a tuning to its end.

    Args:
        beginning: tensors by name.
        end: the same tensors, tuned.
        share: 0 is the beginning, 1 the end.
    """
    return {name: torch.lerp(beginning[name], value, share) for name, value in end.items()}


def square(image: Tensor, size: int, mirrored: bool) -> Float[Tensor, "3 S S"]:
    """The image as a square of `size` pixels, as published for panoptic training."""
    pixels = image.float()
    if pixels.shape[1:] != (size, size):
        pixels = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)[0]
    return pixels.flip(-1) if mirrored else pixels


def _packed(bits: Tensor) -> Tensor:
    padded = F.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
    return (padded * (1 << torch.arange(8))).sum(-1).to(torch.uint8)


def _unpacked(packed: Tensor, count: int) -> Tensor:
    bits = (packed[..., None].int() >> torch.arange(8)) & 1
    return bits.flatten(1)[:, :count].bool()
