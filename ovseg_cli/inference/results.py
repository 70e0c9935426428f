"""All the results of an image, in one pass over its tiles."""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg_cli.inference.instance_scores import InstanceScores
from ovseg_cli.inference.options import TASKS, InferenceOptions, Task
from ovseg_cli.inference.panoptic import PanopticMap
from ovseg_cli.inference.rows import rows_of
from ovseg_cli.inference.semantic import SemanticMap
from ovseg_cli.structures import Frame, Segmentation
from ovseg_cli.upsampling import Tile, tiles


def segment(
    class_probabilities: Float[Tensor, "N K"],
    mask_logits: Float[Tensor, "N h w"],
    frame: Frame,
    is_thing: Bool[Tensor, " K"],
    *,
    tasks: Collection[Task] = TASKS,
    options: InferenceOptions | None = None,
    void_classes: int = 0,
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
        void_classes: so many classes at the end compete with the others, and what they win is void.
    """
    options = options or InferenceOptions()
    parts = _Parts(class_probabilities, mask_logits, frame, is_thing, tasks, options, void_classes)
    needed = parts.queries()
    for tile in tiles(mask_logits[needed], frame):
        parts.add(tile, needed)
    return parts.result(mask_logits, frame)


class _Parts:
    """The results that are asked for, on their way."""

    def __init__(
        self,
        class_probabilities: Tensor,
        mask_logits: Tensor,
        frame: Frame,
        is_thing: Tensor,
        tasks: Collection[Task],
        options: InferenceOptions,
        void_classes: int,
    ) -> None:
        self.semantic = self.panoptic = self.scored = None
        if "semantic" in tasks:
            self.semantic = SemanticMap(class_probabilities, frame, options, void_classes)
            if options.semantic_at == "resized":
                self.semantic.add_resized(mask_logits, frame)
        if "panoptic" in tasks:
            self.panoptic = PanopticMap(
                class_probabilities, is_thing, frame.original, options, void_classes
            )
        if "instance" in tasks:
            self.scored = InstanceScores(class_probabilities, is_thing, options, void_classes)

    def queries(self) -> Tensor:
        """The masks that can change a result and are not looked at yet, ascending."""
        found = [part.queries for part in (self.semantic, self.panoptic, self.scored) if part]
        return torch.cat(found).unique() if found else torch.zeros(0, dtype=torch.int64)

    def add(self, tile: Tile, needed: Tensor) -> None:
        """Takes in a tile of the needed masks."""
        probabilities = tile.logits.sigmoid()
        if self.semantic:
            own = rows_of(probabilities, needed, self.semantic.queries)
            self.semantic.add(tile.region, own)
        if self.panoptic:
            own = rows_of(probabilities, needed, self.panoptic.queries)
            self.panoptic.add(tile.region, own)
        if self.scored:
            own = rows_of(tile.logits, needed, self.scored.queries)
            self.scored.add(own, rows_of(probabilities, needed, self.scored.queries))

    def result(self, mask_logits: Tensor, frame: Frame) -> Segmentation:
        """What is found."""
        ids, segments = self.panoptic.result() if self.panoptic else (None, ())
        return Segmentation(
            ids,
            segments,
            self.semantic.labels if self.semantic else None,
            self.scored.result(mask_logits, frame) if self.scored else None,
        )
