"""From classified masks to a semantic map, a panoptic map and instances.

Mask2Former (Cheng et al., CVPR 2022), section 4, and MaskFormer (NeurIPS 2021), section 3.4, with
MasQCLIP's scores and thresholds. All results are gathered tile by tile, so that memory grows with
the maps and the instances' masks: not with proposals times pixels, nor with classes times pixels.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import Frame, Instances, Segment, Segmentation
from ovseg_cli.upsampling import Region, probability_tiles, tiles

Task = Literal["panoptic", "semantic", "instance"]
SemanticAt = Literal["original", "resized"]
TASKS: tuple[Task, ...] = ("panoptic", "semantic", "instance")
CHUNK = 1 << 22  # most class scores at once: 16 MB in fp32
GROUP = 16  # rows whose maximum is taken before any index is looked for
EVERYWHERE: Region = (slice(None), slice(None))
SURELY = 1 - 1e-4  # rounding never loses a winner by this much


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
        semantic_at: the size at which the semantic map's mask probabilities are taken: that of the
            `original` image (MasQCLIP), or of the image as `resized` for the networks, whose
            probabilities are then resized (OVSeg, MAFT, FC-CLIP where it makes no other map).
    """

    object_threshold: float = 0.3
    overlap_threshold: float = 0.3
    reject_background: bool = False
    top_k: PositiveInt = 100
    top_k_over: Literal["all", "things"] = "all"
    semantic_at: SemanticAt = "original"


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

    Masks that cannot change a result are dropped before they are upsampled. What is held at once
    is a tile of all masks, a number or two a pixel, and at the end the instances' masks, a byte a
    pixel each.

    Args:
        class_probabilities: (N, K) object score included, where a system has one.
        mask_logits: (N, h, w) covering the padded frame.
        frame: how the mask logits lie in the image.
        is_thing: (K,) True for things.
        tasks: which results to make.
        options: thresholds; their defaults are MasQCLIP's.
    """
    options = options or InferenceOptions()
    if "semantic" in tasks and options.semantic_at == "resized":
        others: set[Task] = set(tasks) - {"semantic"}
        rest = segment(
            class_probabilities, mask_logits, frame, is_thing, tasks=others, options=options
        )
        return replace(rest, semantic=resized_semantic_map(class_probabilities, mask_logits, frame))
    semantic = panoptic = scored = None
    queries = []
    if "semantic" in tasks:
        semantic = torch.zeros(frame.original, dtype=torch.int64, device=mask_logits.device)
        queries.append((class_probabilities > 0).any(-1).nonzero()[:, 0])
    if "panoptic" in tasks:
        panoptic = _PanopticMap(class_probabilities, is_thing, frame.original, options)
        queries.append(panoptic.queries)
    if "instance" in tasks:
        scored = _InstanceScores(class_probabilities, is_thing, options)
        queries.append(scored.queries)
    needed = torch.cat(queries).unique() if queries else class_probabilities.new_zeros(0).long()
    for tile in tiles(mask_logits[needed], frame):
        probabilities = tile.logits.sigmoid()
        if semantic is not None:
            semantic[tile.region] = semantic_map(class_probabilities[needed], probabilities)
        if panoptic:
            panoptic.add(tile.region, _rows(probabilities, needed, panoptic.queries))
        if scored:
            own = _rows(tile.logits, needed, scored.queries)
            scored.add(own, _rows(probabilities, needed, scored.queries))
    ids, segments = panoptic.result() if panoptic else (None, ())
    found = scored.result(mask_logits, frame) if scored else None
    return Segmentation(ids, segments, semantic, found)


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

    Classes that are nowhere the best, whatever the masks do between their lowest and highest
    probability, are left out.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
    """
    size = mask_probabilities.shape[1:]
    flat = mask_probabilities.flatten(1)
    classes = _contenders(flat.amax(1) @ class_probabilities, flat.amin(1) @ class_probabilities)
    step = max(1, CHUNK // size.numel())
    best, labels = mask_probabilities.new_full(size, -1.0).flatten(), classes.new_zeros(size)
    for chunk in classes.split(step):
        scores = semantic_scores(class_probabilities[:, chunk], mask_probabilities)
        chunk_best, places = _best(scores.flatten(1))
        better = chunk_best > best
        labels = torch.where(better.view(size), chunk[places].view(size), labels)
        best = torch.where(better, chunk_best, best)
    return labels


def resized_semantic_map(
    class_probabilities: Float[Tensor, "N K"], mask_logits: Float[Tensor, "N h w"], frame: Frame
) -> Int[Tensor, "H W"]:
    """The best class at every pixel, from the class scores at the resized image's size.

    Resizing scores is resizing mask probabilities, as both are linear.

    Args:
        class_probabilities: (N, K).
        mask_logits: (N, h, w) covering the padded frame.
        frame: how they lie in the image.
    """
    some = (class_probabilities > 0).any(-1)
    result = torch.zeros(frame.original, dtype=torch.int64, device=mask_logits.device)
    for region, probabilities in probability_tiles(mask_logits[some], frame):
        result[region] = semantic_map(class_probabilities[some], probabilities)
    return result


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
    options = InferenceOptions(
        object_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
        reject_background=reject_background,
    )
    size = mask_probabilities.shape[1:]
    part = _PanopticMap(class_probabilities, is_thing, (size[0], size[1]), options)
    part.add(EVERYWHERE, mask_probabilities[part.queries])
    return part.result()


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
    part = _InstanceScores(class_probabilities, is_thing, options)
    own = mask_logits[part.queries]
    part.add(own, own.sigmoid())
    scores, order = part.ranked()
    return Instances(own[part.rows[order]] > 0, part.labels[order], scores)


class _PanopticMap:
    """Which mask wins each pixel, gathered region by region, and the segments that come of it."""

    def __init__(
        self,
        class_probabilities: Tensor,
        is_thing: Tensor,
        size: tuple[int, int],
        options: InferenceOptions,
    ) -> None:
        scores, labels = class_probabilities.max(-1)
        keep = scores > options.object_threshold
        if options.reject_background:
            keep &= scores > 1 - class_probabilities.sum(-1)
        self.queries = keep.nonzero()[:, 0]
        self.scores, self.labels = scores[keep], labels[keep]
        self.is_thing, self.overlap_threshold = is_thing, options.overlap_threshold
        self.own = torch.zeros_like(self.labels)
        # the winner n of a pixel, or n + the number of masks where the pixel is outside mask n
        self.places = torch.zeros(size, dtype=torch.int32, device=scores.device)

    def add(self, region: Region, probabilities: Tensor) -> None:
        """Takes in a region's mask probabilities (n, r, c) of the kept queries."""
        if not len(self.queries):
            return
        flat = probabilities.flatten(1)
        self.own += _counts(flat >= 0.5)
        rows = _contenders(flat.amax(1) * self.scores, flat.amin(1) * self.scores)
        some = flat if len(rows) == len(flat) else flat[rows]
        weighted = some * self.scores[rows, None]
        winner = rows[_best(weighted)[1]]
        outside = flat.gather(0, winner[None])[0] < 0.5
        places = winner + len(self.queries) * outside
        self.places[region] = places.view(probabilities.shape[1:]).int()

    def result(self) -> tuple[Tensor, tuple[Segment, ...]]:
        """Segment ids and segments."""
        count = len(self.queries)
        if not count:
            return self.places, ()
        inside, outside = self.places.flatten().bincount(minlength=2 * count).split(count)
        ids, segments = self._segments(inside.tolist(), (inside + outside).tolist())
        table = self.places.new_tensor([*ids, *[0] * count])
        return table.index_select(0, self.places.flatten()).view_as(self.places), segments

    def _segments(self, areas: list[int], won: list[int]) -> tuple[list[int], tuple[Segment, ...]]:
        """The segment id of every kept query, 0 for none."""
        labels, own = self.labels.tolist(), self.own.tolist()
        things, scores = self.is_thing[self.labels].tolist(), self.scores.tolist()
        found: list[Segment] = []
        ids, stuff_id = [0] * len(labels), dict[int, int]()
        for query, label in enumerate(labels):
            if not areas[query] or won[query] / own[query] < self.overlap_threshold:
                continue
            new = len(found) + 1
            ids[query] = new if things[query] else stuff_id.setdefault(label, new)
            if ids[query] == new:
                found.append(Segment(new, label, things[query], scores[query], areas[query]))
                continue
            first = found[ids[query] - 1]
            score, area = max(first.score, scores[query]), first.area + areas[query]
            found[first.id - 1] = replace(first, score=score, area=area)
        return ids, tuple(found)


class _InstanceScores:
    """The best pairs of mask and thing class, and how sure their masks are, region by region."""

    def __init__(
        self, class_probabilities: Tensor, is_thing: Tensor, options: InferenceOptions
    ) -> None:
        classes, ranked = class_probabilities.shape[1], class_probabilities
        if options.top_k_over == "things":
            ranked = ranked.masked_fill(~is_thing, -1.0)
        scores, places = ranked.flatten().topk(min(options.top_k, ranked.numel()))
        labels = places % classes
        keep = is_thing[labels]
        self.labels, self.scores = labels[keep], scores[keep]
        self.queries, self.rows = (places // classes)[keep].unique(return_inverse=True)
        self.areas = torch.zeros_like(self.queries)
        self.sums = scores.new_zeros(len(self.queries))

    def add(self, logits: Tensor, probabilities: Tensor) -> None:
        """Takes in a region's masks (n, r, c) of the queries."""
        inside = logits > 0
        self.areas += _counts(inside.flatten(1))
        self.sums += (probabilities * inside).flatten(1).sum(1)

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Final scores, best first, and the order of the pairs."""
        quality = self.sums / (self.areas + 1e-6)
        return (self.scores * quality[self.rows]).sort(descending=True, stable=True)

    def result(self, mask_logits: Tensor, frame: Frame) -> Instances:
        """The instances that have a pixel; their masks (I, H, W) are made here, in their order."""
        scores, order = self.ranked()
        found = self.areas[self.rows[order]] > 0
        scores, order = scores[found], order[found]
        rows, places = self.rows[order].unique(return_inverse=True)
        size = (len(order), *frame.original)
        masks = torch.zeros(size, dtype=torch.bool, device=mask_logits.device)
        for tile in tiles(mask_logits[self.queries[rows]], frame):
            masks[:, *tile.region] = (tile.logits > 0)[places]
        return Instances(masks, self.labels[order], scores)


def _contenders(highest: Tensor, lowest: Tensor) -> Tensor:
    """The rows that can be the best, as none is below its lowest or above its highest value."""
    beaten = highest < SURELY * lowest.max()
    return (~beaten).nonzero()[:, 0]


def _best(values: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value (P,) of each column of (N, P), and its first row.

    In two rounds, first among groups of rows: a maximum costs a tenth of what its place costs.
    """
    count, columns = values.shape
    padded = F.pad(values, (0, 0, 0, -count % GROUP), value=float("-inf"))
    groups = padded.view(-1, GROUP, columns)
    group = groups.amax(1).max(0).indices
    best, row = groups.gather(0, group.expand(1, GROUP, columns))[0].max(0)
    return best, group * GROUP + row


def _counts(inside: Tensor) -> Tensor:
    """How many of each row are True; bytes are summed faster than truths."""
    return inside.view(torch.uint8).sum(1, dtype=torch.int32)


def _rows(values: Tensor, of: Tensor, wanted: Tensor) -> Tensor:
    """Those rows of `values`, one for each of `of`, that are for `wanted`; both ascend."""
    return values if len(of) == len(wanted) else values[torch.searchsorted(of, wanted)]
