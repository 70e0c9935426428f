"""From classified masks to a semantic map, a panoptic map and instances.

Mask2Former (Cheng et al., CVPR 2022), section 4, and MaskFormer (NeurIPS 2021), section 3.4, with
MasQCLIP's scores and thresholds. Masks are upsampled here and nowhere else.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import Frame, Instances, Segment, Segmentation

Task = Literal["panoptic", "semantic", "instance"]
TASKS: tuple[Task, ...] = ("panoptic", "semantic", "instance")
CHUNK = 1 << 24  # most class scores at once: 64 MB in fp32


@dataclass(frozen=True)
class InferenceOptions:
    """How a recipe turns classified masks into results.

    Attributes:
        object_threshold: a panoptic segment's class probability is above it.
        overlap_threshold: a panoptic segment keeps at least this share of its mask's area.
        reject_background: whether a mask becomes no panoptic segment where its best class has less
            than the classes together leave of one, which is the background's share (MaskCLIP) and
            what an object score takes off.
        top_k: most instances of an image.
        top_k_over: `all` ranks things and stuff together and then drops stuff, as published;
            `things` ranks things alone.
    """

    object_threshold: float = 0.3
    overlap_threshold: float = 0.3
    reject_background: bool = False
    top_k: PositiveInt = 100
    top_k_over: Literal["all", "things"] = "all"


def segment(
    class_probabilities: Float[Tensor, "N K"],
    mask_logits: Float[Tensor, "N h w"],
    frame: Frame,
    is_thing: Bool[Tensor, " K"],
    *,
    tasks: Collection[Task] = TASKS,
    options: InferenceOptions | None = None,
) -> Segmentation:
    """The results of an image, of its original size.

    Masks that cannot change a result are dropped before they are upsampled.

    Args:
        class_probabilities: (N, K) object score included, where a system has one.
        mask_logits: (N, h, w) covering the padded frame.
        frame: how the mask logits lie in the image.
        is_thing: (K,) True for things.
        tasks: which results to make.
        options: thresholds; their defaults are MasQCLIP's.
    """
    options = options or InferenceOptions()
    queries, labels, scores = _top_instances(class_probabilities, is_thing, options)
    needed = torch.zeros(len(class_probabilities), dtype=torch.bool, device=mask_logits.device)
    if "semantic" in tasks:
        needed |= (class_probabilities > 0).any(-1)
    if "panoptic" in tasks:
        needed |= (class_probabilities > options.object_threshold).any(-1)
    if "instance" in tasks:
        needed[queries] = True
    logits = upsample(mask_logits[needed], frame)
    probabilities, class_probabilities = logits.sigmoid(), class_probabilities[needed]
    panoptic: Tensor | None = None
    segments: tuple[Segment, ...] = ()
    if "panoptic" in tasks:
        panoptic, segments = panoptic_map(
            class_probabilities,
            probabilities,
            is_thing,
            object_threshold=options.object_threshold,
            overlap_threshold=options.overlap_threshold,
            reject_background=options.reject_background,
        )
    rows = needed.cumsum(0)[queries] - 1
    return Segmentation(
        panoptic,
        segments,
        semantic_map(class_probabilities, probabilities) if "semantic" in tasks else None,
        _without_empty(_scored(rows, labels, scores, logits, probabilities))
        if "instance" in tasks
        else None,
    )


def upsample(mask_logits: Float[Tensor, "N h w"], frame: Frame) -> Float[Tensor, "N H W"]:
    """Mask logits at the original image's size: bilinear to the padded size, cropped, bilinear.

    Args:
        mask_logits: (N, h, w) covering the padded frame.
        frame: how they lie in the image.
    """
    if not len(mask_logits):
        return mask_logits.new_zeros((0, *frame.original))
    height, width = frame.resized
    framed = _resized(mask_logits, frame.padded)[:, :height, :width]
    return _resized(framed, frame.original)


def semantic_scores(
    class_probabilities: Float[Tensor, "N K"], mask_probabilities: Float[Tensor, "N H W"]
) -> Float[Tensor, "K H W"]:
    """Every class's score at every pixel: the sum over masks of class x mask probability.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
    """
    return torch.einsum("nk,nhw->khw", class_probabilities, mask_probabilities)


def semantic_map(
    class_probabilities: Float[Tensor, "N K"], mask_probabilities: Float[Tensor, "N H W"]
) -> Int[Tensor, "H W"]:
    """The best class at every pixel; memory does not grow with the number of classes.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
    """
    size = mask_probabilities.shape[1:]
    step = max(1, CHUNK // max(1, size.numel()))
    best = mask_probabilities.new_full(size, -1.0)
    labels = torch.zeros(size, dtype=torch.int64, device=best.device)
    for start in range(0, class_probabilities.shape[1], step):
        scores = semantic_scores(class_probabilities[:, start : start + step], mask_probabilities)
        chunk_best, chunk_labels = scores.max(0)
        better = chunk_best > best
        labels = torch.where(better, chunk_labels + start, labels)
        best = torch.where(better, chunk_best, best)
    return labels


def panoptic_map(
    class_probabilities: Float[Tensor, "N K"],
    mask_probabilities: Float[Tensor, "N H W"],
    is_thing: Bool[Tensor, " K"],
    *,
    object_threshold: float,
    overlap_threshold: float,
    reject_background: bool = False,
) -> tuple[Int[Tensor, "H W"], tuple[Segment, ...]]:
    """Segment ids, 0 where nothing is, and the segments; stuff of one class is one segment.

    Every kept mask wins the pixels where its class x mask probability is the highest; it becomes
    a segment where it also reaches 0.5, unless others won too much of it.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
        is_thing: (K,) True for things.
        object_threshold: masks of no higher class probability are left out.
        overlap_threshold: won pixels per pixel of the mask, at least.
        reject_background: leaves out masks whose best class has less than the background.
    """
    size = mask_probabilities.shape[1:]
    scores, labels = class_probabilities.max(-1)
    keep = scores > object_threshold
    if reject_background:
        keep &= scores > 1 - class_probabilities.sum(-1)
    scores, labels, masks = scores[keep], labels[keep], mask_probabilities[keep]
    if not len(masks):
        return torch.zeros(size, dtype=torch.int32, device=masks.device), ()
    winner = (scores[:, None, None] * masks).argmax(0)  # (H, W)
    inside = masks.gather(0, winner[None])[0] >= 0.5
    count = len(masks)
    won = winner.flatten().bincount(minlength=count)
    own = (masks >= 0.5).flatten(1).sum(1)
    areas = winner[inside].bincount(minlength=count)
    good = (areas > 0) & (won >= overlap_threshold * own)
    ids, segments = _segments(scores, labels, areas, good, is_thing)
    return torch.where(inside, ids[winner], 0), segments


def instances(
    class_probabilities: Float[Tensor, "N K"],
    mask_logits: Float[Tensor, "N H W"],
    is_thing: Bool[Tensor, " K"],
    *,
    options: InferenceOptions,
) -> Instances:
    """The best pairs of mask and thing class, scored class x mean mask probability inside.

    Args:
        class_probabilities: (N, K).
        mask_logits: (N, H, W) at the original size; above 0 is inside.
        is_thing: (K,) True for things.
        options: how many, and ranked among which classes.
    """
    queries, labels, scores = _top_instances(class_probabilities, is_thing, options)
    return _scored(queries, labels, scores, mask_logits, mask_logits.sigmoid())


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[1:]) == size:
        return masks
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


def _segments(
    scores: Tensor, labels: Tensor, areas: Tensor, good: Tensor, is_thing: Tensor
) -> tuple[Tensor, tuple[Segment, ...]]:
    things = is_thing[labels].tolist()
    found: list[Segment] = []
    stuff_id: dict[int, int] = {}
    ids = torch.zeros_like(labels, dtype=torch.int32)
    rows = zip(scores.tolist(), labels.tolist(), areas.tolist(), good.tolist(), strict=True)
    for query, (score, label, area, kept) in enumerate(rows):
        if not kept:
            continue
        if not things[query] and label in stuff_id:
            first = found[stuff_id[label] - 1]
            found[first.id - 1] = Segment(
                first.id, label, False, max(first.score, score), first.area + area
            )
            ids[query] = first.id
            continue
        found.append(Segment(len(found) + 1, label, things[query], score, area))
        ids[query] = len(found)
        if not things[query]:
            stuff_id[label] = len(found)
    return ids, tuple(found)


def _top_instances(
    class_probabilities: Tensor, is_thing: Tensor, options: InferenceOptions
) -> tuple[Tensor, Tensor, Tensor]:
    classes = class_probabilities.shape[1]
    ranked = class_probabilities
    if options.top_k_over == "things":
        ranked = ranked.masked_fill(~is_thing, -1.0)
    scores, places = ranked.flatten().topk(min(options.top_k, ranked.numel()))
    queries, labels = places // classes, places % classes
    keep = is_thing[labels]
    return queries[keep], labels[keep], scores[keep]


def _scored(
    queries: Tensor, labels: Tensor, scores: Tensor, mask_logits: Tensor, probabilities: Tensor
) -> Instances:
    masks = mask_logits > 0
    areas = masks.flatten(1).sum(1)
    quality = (probabilities * masks).flatten(1).sum(1) / areas.clamp(min=1)
    final = scores * quality[queries]
    order = final.argsort(descending=True, stable=True)
    return Instances(masks[queries[order]], labels[order], final[order])


def _without_empty(found: Instances) -> Instances:
    keep = found.masks.flatten(1).any(1)
    return Instances(found.masks[keep], found.labels[keep], found.scores[keep])
