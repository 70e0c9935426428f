"""One pass over annotated images that counts every metric of an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.cosine_logits import ClassifierLogits
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError
from ovseg_cli.inference import TASKS
from ovseg_cli.mask_encoders import RefinesMasks
from ovseg_cli.progress import progress
from ovseg_cli.proposers import ground_truth_proposals
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.crops import crop_around, crop_side_for, name_crops
from ovseg_cli.stages.evaluate_options import EvaluateOptions, scored_tasks
from ovseg_cli.stages.oracle_classes import oracle_scores
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


def refines(segmenter: Segmenter) -> bool:
    """Whether its mask encoder gives back better masks than the proposals."""
    encoder = segmenter.mask_encoder
    return isinstance(encoder, RefinesMasks) and encoder.refine


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
    masks = proposals.mask_logits
    if refines(segmenter):
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
