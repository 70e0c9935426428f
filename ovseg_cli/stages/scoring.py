"""One pass over annotated images that counts every metric of an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_cli.cosine_logits import ClassifierLogits
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.inference import TASKS, Task
from ovseg_cli.mask_encoders import RefinesMasks
from ovseg_cli.progress import progress
from ovseg_cli.proposers import ground_truth_proposals
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.crops import crop_around, crop_side_for, name_crops
from ovseg_cli.stages.oracle_classes import OracleClasses, oracle_scores
from ovseg_cli.stages.scores import Scores
from ovseg_cli.structures import (
    EncodedMasks,
    FramedImage,
    Proposals,
    Sample,
    Segmentation,
    Vocabulary,
)
from ovseg_cli.upsampling import upsample

HELD_OUT = "held_out"  # a segment's flag in the synthetic set: a composition not seen in training

Protocol = Literal["generalized", "constrained_base", "constrained_novel"]
TASKS_OF: dict[str, tuple[Task, ...]] = {
    "panoptic": TASKS,
    "instances": ("instance",),
    "semantic": ("semantic",),
}


@dataclass(frozen=True)
class EvaluateOptions:
    """What to score.

    Attributes:
        tasks: any of panoptic, semantic and instance; those that the annotations allow are scored.
        protocol: `generalized` tells all classes apart; `constrained_base` and `constrained_novel`
            those that are seen in training, or unseen, alone: other annotations are void.
        oracle_masks: score with the annotated masks as proposals.
        oracle_classes: score the upper bound that the proposals set, with classes from the
            annotations: `iou` (MAFT's table 7) or `label`, see `oracle_scores`; None for the
            recipe's own classification. CLIP then sees no mask but for `sensitivity`, or to refine
            it, so that neither masks nor crops are named.
        masks_from: score with the masks and object scores of another run directory's proposer, in
            images framed as its recipe says; `artifacts.proposals` names one of its.
        mask_accuracy: also name the annotated masks.
        crop_accuracy: also name square crops of the annotated segments by CLIP alone.
        crop_scale: side of a thing's crop, in longer sides of its box.
        crop_side: pixels at which CLIP sees crops, None for its own size; less is a window, for a
            small CLIP that has learned from windows.
        grounding: also score what is found where the classes that an image shows are all that is
            asked for (FC-CLIP's table 7).
        sensitivity: also count how often a worse version of an annotated mask scores above it, see
            `mask_sensitivity`.
        sweep: also score settings of the ensemble, see `SweepOptions`; `{}` for FC-CLIP's table 8.
        input_sizes: also let CLIP alone classify the masks, seeing images with shorter sides of so
            many pixels (FC-CLIP's table 9); for a mask encoder with an `input_size`.
        images: score the first so many images alone; None for the whole split.
    """

    tasks: tuple[Task, ...] = TASKS
    protocol: Protocol = "generalized"
    oracle_masks: bool = False
    oracle_classes: OracleClasses | None = None
    masks_from: str | None = None
    mask_accuracy: bool = True
    crop_accuracy: bool = True
    crop_scale: PositiveFloat = 1.1
    crop_side: PositiveInt | None = None
    grounding: bool = False
    sensitivity: bool = False
    sweep: dict[str, Any] | None = None
    input_sizes: tuple[PositiveInt, ...] = ()
    images: PositiveInt | None = None


@dataclass(frozen=True)
class ScoredImage:
    """What was found in an annotated image, before any classifier was weighed against another.

    Attributes:
        sample: the annotated image.
        held_out: (M,) segments that `update_named` also counts apart.
        framed: the image as the networks see it.
        given: the annotated masks without crowds, as proposals.
        proposals: what is scored; the same as `given` with `oracle_masks`.
        encoded: the proposals as CLIP sees them, or as they are where classes are annotated ones.
        classifiers: what they say of them; None where classes are annotated ones.
    """

    sample: Sample
    held_out: Bool[Tensor, " M"]
    framed: FramedImage
    given: Proposals
    proposals: Proposals
    encoded: EncodedMasks
    classifiers: ClassifierLogits | None

    @property
    def logits(self) -> ClassifierLogits:
        """What the classifiers say of the proposals.

        Raises:
            ValueError: the annotations took their place.
        """
        if self.classifiers is None:
            raise ValueError("with oracle_classes the proposals are not classified")
        return self.classifiers


def check_options(options: EvaluateOptions) -> None:
    """Checks that what is asked for fits together.

    Raises:
        RecipeError: two options of which one leaves nothing for the other.
    """
    if options.oracle_masks and options.masks_from is not None:
        raise RecipeError(
            "[evaluate] masks_from: the annotated masks are scored already; set oracle_masks or "
            "masks_from, not both"
        )
    classified = {
        "grounding": options.grounding,
        "sweep": options.sweep is not None,
        "input_sizes": bool(options.input_sizes),
    }
    for name, asked in classified.items():
        if asked and options.oracle_classes is not None:
            raise RecipeError(
                f"[evaluate] {name}: is about the recipe's classification, and oracle_classes "
                "takes its place; set one of the two"
            )


def scored_tasks(kind: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Those of the tasks that annotations allow.

    Args:
        kind: of the annotations, as `TASKS_OF` has it.
        tasks: that are asked for.

    Raises:
        RecipeError: there is none.
    """
    found = tuple(task for task in TASKS_OF[kind] if task in tasks)
    if not found:
        raise RecipeError(
            f"[evaluate] tasks: {', '.join(tasks)} cannot be scored with {kind} "
            f"annotations; they allow {', '.join(TASKS_OF[kind])}"
        )
    return found


@torch.inference_mode()
def score(
    segmenter: Segmenter,
    dataset: CocoDataset | SemanticMaps,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    *,
    beside: Sequence[Callable[[ScoredImage], None]] = (),
    on_result: Callable[[Segmentation, Sample], None] | None = None,
) -> Scores:
    """One pass over a dataset.

    Args:
        segmenter: what is scored.
        dataset: annotated images.
        vocabulary: its classes, as they are named.
        options: what to score.
        beside: is given every image, to count what it likes.
        on_result: is given what was found in every image, and the annotated image.

    Raises:
        RecipeError: none of the tasks can be scored with such annotations.
        InputError: the split is empty, or an image or mask cannot be read.
    """
    scores = Scores(vocabulary, tasks=scored_tasks(dataset.kind, options.tasks))
    count = min(len(dataset), options.images or len(dataset))
    if not count:
        raise InputError(f"{dataset.name}: no images to score")
    title = f"evaluate {dataset.name}"
    for index in progress(range(count), title=title, unit="image"):
        sample = dataset[index]
        held_out = torch.zeros_like(sample.is_crowd)
        if isinstance(dataset, CocoDataset):
            held_out = dataset.marked(index, HELD_OUT)
        image = _scored_image(segmenter, sample, vocabulary, options, held_out)
        result = _score_image(segmenter, scores, image, vocabulary, options)
        if on_result is not None:
            on_result(result, sample)
        for update in beside:
            update(image)
    return scores


def _scored_image(
    segmenter: Segmenter,
    sample: Sample,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    held_out: Tensor,
) -> ScoredImage:
    framed = segmenter.frame(sample.image, name=sample.file_name)
    given = ground_truth_proposals(sample, framed.frame)
    proposals = given if options.oracle_masks else segmenter.propose(framed, vocabulary)
    if options.oracle_classes is not None:
        encoded = _encoded_for_masks(segmenter, framed, proposals, vocabulary)
        return ScoredImage(sample, held_out, framed, given, proposals, encoded, None)
    encoded = segmenter.encode(framed, proposals, vocabulary)
    logits = segmenter.logits(framed, proposals, vocabulary, encoded=encoded)
    return ScoredImage(sample, held_out, framed, given, proposals, encoded, logits)


def _encoded_for_masks(
    segmenter: Segmenter, framed: FramedImage, proposals: Proposals, vocabulary: Vocabulary
) -> EncodedMasks:
    """The masks that would be classified; CLIP is asked only where it refines them."""
    encoder, masks = segmenter.mask_encoder, proposals.mask_logits
    if isinstance(encoder, RefinesMasks) and encoder.refine:
        return segmenter.encode(framed, proposals, vocabulary)
    return EncodedMasks(masks.new_zeros(len(masks), 0), masks, masks.new_ones(len(masks)).bool())


def _score_image(
    segmenter: Segmenter,
    scores: Scores,
    image: ScoredImage,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> Segmentation:
    sample, proposals, held_out = image.sample, image.proposals, image.held_out
    tasks = [task for task in TASKS if getattr(scores, task) is not None]
    probabilities = _probabilities(segmenter, image, vocabulary, options)
    result = segmenter.infer(image.encoded, probabilities, proposals, vocabulary, tasks=tasks)
    scores.update(result, sample)
    if not options.oracle_masks:
        masks = upsample(proposals.mask_logits.float(), proposals.frame) > 0
        scores.update_recall(masks.cpu(), sample)
    if options.oracle_classes is not None:
        return result
    counted = ~sample.is_crowd
    if options.mask_accuracy and counted.any():
        if not options.oracle_masks:
            _, probabilities = segmenter.classify(image.framed, image.given, vocabulary)
        found = probabilities.argmax(-1).cpu()
        _count(scores, "mask_accuracy", found, sample.labels[counted], held_out[counted])
    counted = counted & sample.masks.flatten(1).any(1)  # a tiny polygon may cover no pixel
    if options.crop_accuracy and counted.any():
        found = _name_crops(segmenter, sample, counted, vocabulary, options)
        _count(scores, "crop_accuracy", found, sample.labels[counted], held_out[counted])
    return result


def _probabilities(
    segmenter: Segmenter, image: ScoredImage, vocabulary: Vocabulary, options: EvaluateOptions
) -> Tensor:
    if options.oracle_classes is None:
        seen = segmenter.seen(vocabulary)
        return segmenter.classification.combine(image.logits, seen=seen)
    return oracle_scores(
        image.encoded.mask_logits.float(),
        image.proposals.frame,
        image.sample,
        classes=len(vocabulary),
        kind=options.oracle_classes,
    )


def _name_crops(
    segmenter: Segmenter,
    sample: Sample,
    counted: Tensor,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> Tensor:
    side = crop_side_for(segmenter.clip, options.crop_side)
    segments = zip(sample.masks[counted], sample.labels[counted].tolist(), strict=True)
    crops = [
        crop_around(
            sample.image,
            mask,
            is_thing=vocabulary.is_thing[label],
            scale=options.crop_scale,
            side=side,
        )
        for mask, label in segments
    ]
    texts = segmenter.text_embeddings(vocabulary)
    return name_crops(segmenter.clip, texts, torch.stack(crops))


def _count(scores: Scores, name: str, found: Tensor, labels: Tensor, held_out: Tensor) -> None:
    scores.update_named(name, found, labels)
    if held_out.any():
        scores.update_named(f"{name}_held_out", found[held_out], labels[held_out])
