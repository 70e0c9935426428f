"""`ovseg train-proposals`: trains a class-agnostic proposer on annotated masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_cli.checkpoints.mask2former import load_backbone
from ovseg_cli.datasets.augmentation import jittered, squashed
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.device import Precision
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.losses.set_criterion import MaskTargets, SetCriterion, seed_of
from ovseg_cli.proposers import PROPOSERS, Mask2Former, MaskRcnn
from ovseg_cli.proposers.mask_rcnn import AnnotatedMasks
from ovseg_cli.recipe import Share, build, choose
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    dataset_of,
    dataset_options,
    run_stage,
    train_split,
)
from ovseg_cli.structures import Sample
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import Decay, adamw, schedule

SECTIONS = ("proposer", "dataset", "train_proposals")


@dataclass(frozen=True)
class TrainProposalsOptions:
    """How to train; the defaults are Mask2Former's, as MasQCLIP's teacher is trained.

    From `class_weight` on, all but `cached_images` are of Mask2Former's loss alone; Mask R-CNN's
    losses all weigh 1.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step, over all processes.
        augmentation: `jitter` (large-scale jittering) or `squash` (mirror and squash).
        image_size: side of the square training images, a multiple of 32.
        smallest_scale: least scale of `jitter`.
        largest_scale: greatest scale of `jitter`.
        backbone_weights: `none`, `imagenet` (torchvision's) or a file of torchvision's layout.
        lr: the learning rate.
        backbone_lr_factor: of the backbone's learning rate.
        weight_decay: decoupled; none on norms and embeddings.
        decay: of the learning rate: `none`, `step` or `cosine`.
        milestone: the share of the steps before the drop of `step`.
        warmup: steps of linear warm-up.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        class_weight: weight of the class loss, and of the class in matching.
        mask_weight: weight of the masks' cross-entropy, in both.
        dice_weight: weight of the dice loss, in both.
        no_object_weight: weight of unmatched queries in the class loss.
        points: points at which a mask is compared.
        oversample: candidates a point.
        importance: share of the points taken where the mask is least certain.
        normaliser: `global`, or each `process`'s mean as released.
        cached_images: decoded images kept in memory; a set that fits is decoded once.
    """

    steps: PositiveInt = 100_000
    batch_size: PositiveInt = 16
    augmentation: Literal["jitter", "squash"] = "jitter"
    image_size: PositiveInt = 1024
    smallest_scale: PositiveFloat = 0.1
    largest_scale: PositiveFloat = 2.0
    backbone_weights: str = "imagenet"
    lr: NonNegativeFloat = 1e-4
    backbone_lr_factor: NonNegativeFloat = 0.1
    weight_decay: NonNegativeFloat = 0.05
    decay: Decay = "none"
    milestone: Share = 0.9
    warmup: NonNegativeInt = 0
    gradient_clip: NonNegativeFloat = 0.01
    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.1
    points: PositiveInt = 12544
    oversample: Annotated[float, Field(ge=1)] = 3.0
    importance: Share = 0.75
    normaliser: Literal["global", "process"] = "global"
    cached_images: NonNegativeInt = 0

    def criterion(self) -> SetCriterion:
        """The loss's share of the options."""
        return SetCriterion(
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            no_object_weight=self.no_object_weight,
            points=self.points,
            oversample=self.oversample,
            importance=self.importance,
            normaliser=self.normaliser,
        )

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        return LoopOptions(self.steps, gradient_clip=self.gradient_clip, precision=precision)

    def optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW, the backbone at its own rate."""
        factors = {"backbone.": self.backbone_lr_factor}
        return adamw(module, lr=self.lr, weight_decay=self.weight_decay, lr_factors=factors)

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rate at each step."""
        return schedule(
            steps=self.steps, warmup=self.warmup, decay=self.decay, milestone=self.milestone
        )


class Batch(NamedTuple):
    """Augmented images and their annotated masks.

    Attributes:
        images: RGB, 0 to 255.
        masks: (M, S, S) of each image, True inside.
        image_ids: of each image.
    """

    images: Float[Tensor, "B 3 S S"]
    masks: tuple[Bool[Tensor, "M S S"], ...]
    image_ids: tuple[int, ...]


class ProposalExamples:
    """The batches of a dataset, each a pure function of the step.

    Args:
        dataset: its annotated segments that are no crowd are learned, whatever their class.
        options: the batch and its augmentation.
        seed: of order and augmentation.

    Raises:
        InputError: no image of the split has a mask.
    """

    def __init__(self, dataset: CocoDataset, options: TrainProposalsOptions, *, seed: int) -> None:
        self.dataset, self.options, self.seed = dataset, options, seed
        self.indices = [i for i, record in enumerate(dataset.records) if record.segments]
        if not self.indices:
            raise InputError(f"{dataset.name}: no annotated masks to train on; use another split")
        self._kept: dict[int, Sample] = {}

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        share = self.options.batch_size // distributed.world_size()
        first = step * self.options.batch_size + distributed.rank() * share
        samples = [self.augmented(first + offset) for offset in range(share)]
        images = torch.stack([sample.image for sample in samples]).float()
        masks = tuple(sample.masks[~sample.is_crowd] for sample in samples)
        return Batch(images, masks, tuple(sample.image_id for sample in samples))

    def augmented(self, position: int) -> Sample:
        """The image at a position in the endless order of shuffled epochs.

        Args:
            position: 0 for the first image of the first step.
        """
        epoch, place = divmod(position, len(self.indices))
        order = torch.randperm(len(self.indices), generator=_generator(self.seed, epoch))
        generator = _generator(self.seed, position, 1)
        sample = self._sample(self.indices[int(order[place])])
        if self.options.augmentation == "squash":
            return squashed(sample, self.options.image_size, generator)
        return jittered(
            sample,
            self.options.image_size,
            generator,
            smallest=self.options.smallest_scale,
            largest=self.options.largest_scale,
        )

    def _sample(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        if len(self._kept) < self.options.cached_images:
            self._kept[index] = sample
        return sample


def train_proposals(settings: Settings) -> Outcome:
    """Trains the recipe's proposer and saves it as proposals/teacher.

    Args:
        settings: run directory, recipe, device.

    Raises:
        RecipeError: an option that cannot be used.
        InputError: the dataset has no annotated masks.
        CheckpointError: the backbone's weights cannot be had.
    """
    section = settings.recipe.section("train_proposals")
    options = build("train_proposals", section, TrainProposalsOptions)
    split, kind = train_split(settings), dataset_options(settings).annotations
    return run_stage(
        settings,
        "train-proposals",
        lambda fingerprint: _trained(settings, options, split, fingerprint),
        artifact="proposals/teacher",
        sections=SECTIONS,
        inputs=annotation_hashes(settings, f"{kind}_{split}.json"),
    )


def _trained(
    settings: Settings, options: TrainProposalsOptions, split: str, fingerprint: str
) -> dict[str, Any]:
    recipe, device = settings.recipe, settings.device
    _check(options)
    torch.manual_seed(recipe.seed)
    name, proposer = built_proposer(recipe.section("proposer"))
    if options.backbone_weights != "none":
        architecture = recipe.section("proposer").get("backbone", "resnet50")
        load_backbone(proposer.backbone, options.backbone_weights, architecture=architecture)
    dataset = dataset_of(settings, split, part="seen")
    examples = ProposalExamples(dataset, options, seed=recipe.seed)
    result = fit(
        proposer.to(device),
        batch_at=examples.batch_at,
        losses_of=lambda module, batch, step: proposal_losses(
            module, batch, options=options, seed=recipe.seed, step=step, device=device
        ),
        optimizer=options.optimizer(proposer),
        schedule=options.schedule(),
        options=options.loop(settings.precision_or("fp32")),
        run=settings.run,
        stage="train-proposals",
        fingerprint=fingerprint,
        device=device,
    )
    if distributed.is_main():
        model = {"name": name, "options": recipe.section("proposer")}
        settings.run.save_artifact("proposals", "teacher", proposer.state_dict(), model)
    return {
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in proposer.parameters()),
        "images": len(examples.indices),
        "skipped": result.skipped,
        "losses": result.losses,
    }


def built_proposer(section: dict[str, Any]) -> tuple[str, Mask2Former | MaskRcnn]:
    """The trainable proposer that a recipe's section describes, with its name.

    Args:
        section: the recipe's `proposer`; Mask2Former where it has no `name`.
    """
    named = {"name": "mask2former", **section}
    target, options = choose("proposer", named, PROPOSERS)
    return str(named["name"]), build("proposer", options, target)


def proposal_losses(
    module: nn.Module,
    batch: Batch,
    *,
    options: TrainProposalsOptions,
    seed: int,
    step: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """The weighted losses of a batch, each proposer's own.

    Args:
        module: the proposer, or its wrapper for several processes.
        batch: images and masks, all of the one class "object".
        options: the weights of the losses, and where masks are compared.
        seed: of the random points, anchors and regions.
        step: the training step.
        device: where the module is.
    """
    here = batch._replace(
        images=batch.images.to(device), masks=tuple(masks.to(device) for masks in batch.masks)
    )
    proposer = module.module if isinstance(module, DistributedDataParallel) else module
    return LOSSES[type(proposer)](module, here, options, seed, step)


def _set_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    targets = [
        MaskTargets(masks.float(), masks.new_zeros(len(masks), dtype=torch.int64), image_id)
        for masks, image_id in zip(batch.masks, batch.image_ids, strict=True)
    ]
    return options.criterion()(module(batch.images), targets, seed=seed, step=step)


def _region_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    targets = [
        AnnotatedMasks(masks, seed_of(seed, step, image_id))
        for masks, image_id in zip(batch.masks, batch.image_ids, strict=True)
    ]
    losses: dict[str, Tensor] = module(batch.images, targets)
    return losses


LOSSES: dict[type[nn.Module], Callable[..., dict[str, Tensor]]] = {
    Mask2Former: _set_losses,
    MaskRcnn: _region_losses,
}


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))


def _check(options: TrainProposalsOptions) -> None:
    processes = distributed.world_size()
    if options.batch_size % processes:
        raise RecipeError(
            f"[train_proposals] batch_size: {options.batch_size} images cannot be shared out among "
            f"{processes} processes; choose a multiple"
        )
    if options.image_size % 32:
        raise RecipeError(
            f"[train_proposals] image_size: {options.image_size} is not a multiple of 32"
        )
