"""How much the masks and probabilities of a written file are those of the segmenter.

Masks are compared by their overlap and not by their logits: a query attends to what it had inside
one layer earlier, and a logit near 0 that falls on the other side there changes all that follow.
"""

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_MASK_IOU = 0.95
MOST_MOVED = 0.05


@dataclass(frozen=True)
class Agreement:
    """A file beside the segmenter it was made from, on the same images.

    Attributes:
        images: how many.
        masks: how many masks were compared: those that have a pixel inside in either.
        mask_iou: their mean intersection over union, query by query; 1 is the same.
        lowest_mask_iou: of the mask that differs most.
        moved: of a mask's class probabilities, the share that is with another class, 0 to 1; the
            mean over all masks.
        same_class: the share of masks with the same best class.
    """

    images: int
    masks: int
    mask_iou: float
    lowest_mask_iou: float
    moved: float
    same_class: float

    @property
    def problem(self) -> str | None:
        """What is wrong, None if the file does what the segmenter does."""
        if not self.masks:
            return "there is no mask to compare; name other images by --image"
        if not self.mask_iou >= LEAST_MASK_IOU:
            return (
                f"its masks overlap the segmenter's by {self.mask_iou:.3f}, below {LEAST_MASK_IOU}"
            )
        if not self.moved <= MOST_MOVED:
            return f"{self.moved:.3f} of its class probabilities are elsewhere, above {MOST_MOVED}"
        return None

    def as_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


Outputs = tuple[Float[Tensor, "N h w"], Float[Tensor, "N K"]]


def agreement(ours: list[Outputs], theirs: list[Outputs]) -> Agreement:
    """The figures over some images.

    Args:
        ours: mask logits and class probabilities of each image by the segmenter.
        theirs: those of the file, query by query.
    """
    pairs = list(zip(ours, theirs, strict=True))
    overlaps = torch.cat([mask_ious(a[0], b[0]) for a, b in pairs])
    ious: list[float] = overlaps[~overlaps.isnan()].tolist()
    moved = torch.cat([(a[1] - b[1]).abs().sum(1) / 2 for a, b in pairs])
    same = torch.cat([a[1].argmax(1) == b[1].argmax(1) for a, b in pairs])
    return Agreement(
        len(pairs),
        len(ious),
        fmean(ious) if ious else 0.0,
        min(ious, default=0.0),
        float(moved.mean()),
        float(same.float().mean()),
    )


def mask_ious(ours: Float[Tensor, "N h w"], theirs: Float[Tensor, "N h w"]) -> Float[Tensor, " N"]:
    """Intersection over union of each mask with its counterpart; NaN where both are empty.

    Args:
        ours: logits, above 0 inside.
        theirs: those of the same queries.
    """
    a, b = (logits.flatten(1) > 0 for logits in (ours, theirs))
    return (a & b).sum(1) / (a | b).sum(1)
