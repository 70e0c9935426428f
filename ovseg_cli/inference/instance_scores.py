"""Instances: the best pairs of mask and thing class.

Mask2Former (Cheng et al., CVPR 2022), section 4, with MasQCLIP's scores and thresholds.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg_cli.inference.options import InferenceOptions
from ovseg_cli.inference.rows import counts
from ovseg_cli.structures import Frame, Instances
from ovseg_cli.upsampling import tiles


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
    part = InstanceScores(class_probabilities, is_thing, options)
    own = mask_logits[part.queries]
    part.add(own, own.sigmoid())
    scores, order = part.ranked()
    return Instances(own[part.rows[order]] > 0, part.labels[order], scores)


class InstanceScores:
    """The best pairs of mask and thing class, and how sure their masks are, region by region."""

    def __init__(
        self,
        class_probabilities: Tensor,
        is_thing: Tensor,
        options: InferenceOptions,
        void_classes: int = 0,
    ) -> None:
        classes, ranked = class_probabilities.shape[1], class_probabilities
        if void_classes:
            classes -= void_classes
            lost = class_probabilities.argmax(-1, keepdim=True) >= classes
            ranked = class_probabilities[:, :classes].masked_fill(lost, -1.0)
            is_thing = is_thing[:classes]
        if options.top_k_over == "things":
            ranked = ranked.masked_fill(~is_thing, -1.0)
        scores, places = ranked.flatten().topk(min(options.top_k, ranked.numel()))
        labels = places % classes
        keep = is_thing[labels] & (scores >= 0)
        self.labels, self.scores = labels[keep], scores[keep]
        self.threshold = options.instance_threshold
        self.queries, self.rows = (places // classes)[keep].unique(return_inverse=True)
        self.areas = torch.zeros_like(self.queries)
        self.sums = scores.new_zeros(len(self.queries))

    def add(self, logits: Tensor, probabilities: Tensor) -> None:
        """Takes in a region's masks (n, r, c) of the queries."""
        inside = logits > 0
        self.areas += counts(inside.flatten(1))
        self.sums += (probabilities * inside).flatten(1).sum(1)

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Final scores, best first, and the order of the pairs."""
        quality = self.sums / (self.areas + 1e-6)
        return (self.scores * quality[self.rows]).sort(descending=True, stable=True)

    def result(self, mask_logits: Tensor, frame: Frame) -> Instances:
        """The instances that have a pixel; their masks (I, H, W) are made here, in their order."""
        scores, order = self.ranked()
        found = (self.areas[self.rows[order]] > 0) & (scores >= self.threshold)
        scores, order = scores[found], order[found]
        rows, places = self.rows[order].unique(return_inverse=True)
        size = (len(order), *frame.original)
        masks = torch.zeros(size, dtype=torch.bool, device=mask_logits.device)
        for tile in tiles(mask_logits[self.queries[rows]], frame):
            masks[:, *tile.region] = (tile.logits > 0)[places]
        return Instances(masks, self.labels[order], scores)
