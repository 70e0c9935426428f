"""The panoptic map: which mask wins each pixel, and the segments that come of it.

Mask2Former (Cheng et al., CVPR 2022), section 4, with MasQCLIP's scores and thresholds.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ovseg_cli.inference.options import InferenceOptions
from ovseg_cli.inference.rows import best_rows, contenders, counts
from ovseg_cli.structures import Segment
from ovseg_cli.upsampling import Region

EVERYWHERE: Region = (slice(None), slice(None))


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
    part = PanopticMap(class_probabilities, is_thing, (size[0], size[1]), options)
    part.add(EVERYWHERE, mask_probabilities[part.queries])
    return part.result()


class PanopticMap:
    """Which mask wins each pixel, gathered region by region, and the segments that come of it."""

    def __init__(
        self,
        class_probabilities: Tensor,
        is_thing: Tensor,
        size: tuple[int, int],
        options: InferenceOptions,
        void_classes: int = 0,
    ) -> None:
        scores, labels = class_probabilities.max(-1)
        keep = scores > options.object_threshold
        if options.reject_background:
            keep &= scores > 1 - class_probabilities.sum(-1)
        self.queries = keep.nonzero()[:, 0]
        self.scores, self.labels = scores[keep], labels[keep]
        self.is_thing, self.overlap_threshold = is_thing, options.overlap_threshold
        self.classes = class_probabilities.shape[1] - void_classes
        self.own = torch.zeros_like(self.labels)
        # the winner n of a pixel, or n + the number of masks where the pixel is outside mask n
        self.places = torch.zeros(size, dtype=torch.int32, device=scores.device)

    def add(self, region: Region, probabilities: Tensor) -> None:
        """Takes in a region's mask probabilities (n, r, c) of the kept queries."""
        if not len(self.queries):
            return
        flat = probabilities.flatten(1)
        self.own += counts(flat >= 0.5)
        rows = contenders(flat.amax(1) * self.scores, flat.amin(1) * self.scores)
        some = flat if len(rows) == len(flat) else flat[rows]
        weighted = some * self.scores[rows, None]
        winner = rows[best_rows(weighted)[1]]
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
            lost = not areas[query] or won[query] / own[query] < self.overlap_threshold
            if lost or label >= self.classes:
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
