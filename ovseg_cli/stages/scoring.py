"""One pass over annotated images that counts every metric of an evaluation."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.inference import TASKS, Task, upsample
from ovseg_cli.progress import progress
from ovseg_cli.proposers import ground_truth_proposals
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.crops import crop_around, crop_side_for, name_crops
from ovseg_cli.stages.scores import Scores
from ovseg_cli.structures import Sample, Vocabulary

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
        mask_accuracy: also name the annotated masks.
        crop_accuracy: also name square crops of the annotated segments by CLIP alone.
        crop_scale: side of a thing's crop, in longer sides of its box.
        crop_side: pixels at which CLIP sees crops, None for its own size; less is a window, for a
            small CLIP that has learned from windows.
        images: score the first so many images alone; None for the whole split.
    """

    tasks: tuple[Task, ...] = TASKS
    protocol: Protocol = "generalized"
    oracle_masks: bool = False
    mask_accuracy: bool = True
    crop_accuracy: bool = True
    crop_scale: PositiveFloat = 1.1
    crop_side: PositiveInt | None = None
    images: PositiveInt | None = None


@torch.inference_mode()
def score(
    segmenter: Segmenter,
    dataset: CocoDataset | SemanticMaps,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> Scores:
    """One pass over a dataset.

    Args:
        segmenter: what is scored.
        dataset: annotated images.
        vocabulary: its classes, as they are named.
        options: what to score.

    Raises:
        RecipeError: none of the tasks can be scored with such annotations.
        InputError: the split is empty, or an image or mask cannot be read.
    """
    tasks = [task for task in TASKS_OF[dataset.kind] if task in options.tasks]
    if not tasks:
        raise RecipeError(
            f"[evaluate] tasks: {', '.join(options.tasks)} cannot be scored with {dataset.kind} "
            f"annotations; they allow {', '.join(TASKS_OF[dataset.kind])}"
        )
    scores = Scores(vocabulary, tasks=tasks)
    count = min(len(dataset), options.images or len(dataset))
    if not count:
        raise InputError(f"{dataset.name}: no images to score")
    title = f"evaluate {dataset.name}"
    for index in progress(range(count), title=title, unit="image"):
        sample = dataset[index]
        held_out = torch.zeros_like(sample.is_crowd)
        if isinstance(dataset, CocoDataset):
            held_out = dataset.marked(index, HELD_OUT)
        _score_sample(segmenter, scores, sample, vocabulary, options, held_out)
    return scores


def _score_sample(
    segmenter: Segmenter,
    scores: Scores,
    sample: Sample,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    held_out: Tensor,
) -> None:
    tasks = [task for task in TASKS if getattr(scores, task) is not None]
    framed = segmenter.frame(sample.image)
    given = ground_truth_proposals(sample, framed.frame)
    proposals = given if options.oracle_masks else segmenter.propose(framed)
    encoded, probabilities = segmenter.classify(framed, proposals, vocabulary)
    result = segmenter.infer(encoded, probabilities, proposals, vocabulary, tasks=tasks)
    scores.update(result, sample)
    if not options.oracle_masks:
        masks = upsample(proposals.mask_logits.float(), proposals.frame) > 0
        scores.update_recall(masks.cpu(), sample)
    counted = ~sample.is_crowd
    if options.mask_accuracy and counted.any():
        if not options.oracle_masks:
            _, probabilities = segmenter.classify(framed, given, vocabulary)
        found = probabilities.argmax(-1).cpu()
        _count(scores, "mask_accuracy", found, sample.labels[counted], held_out[counted])
    counted = counted & sample.masks.flatten(1).any(1)  # a tiny polygon may cover no pixel
    if options.crop_accuracy and counted.any():
        found = _name_crops(segmenter, sample, counted, vocabulary, options)
        _count(scores, "crop_accuracy", found, sample.labels[counted], held_out[counted])


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
