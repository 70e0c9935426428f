"""How good the masks are that a teacher adds to the annotated ones."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.metrics.proposal_recall import mask_iou

IOU_THRESHOLD = 0.5


class PseudoMaskQuality:
    """Counts added masks that are objects of unseen classes, and such objects that were added.

    The paper has no such figure.
    """

    def __init__(self) -> None:
        self.images = self.added = 0
        self.right = np.zeros(2, dtype=np.int64)  # stuff, things
        self.found = np.zeros(2, dtype=np.int64)
        self.annotated = np.zeros(2, dtype=np.int64)

    def update(
        self,
        added: Bool[Tensor, "A H W"],
        unseen: Bool[Tensor, "M H W"],
        is_thing: Bool[Tensor, " M"],
    ) -> None:
        """Counts an image.

        Args:
            added: (A, H, W) the teacher's masks that training would add.
            unseen: (M, H, W) annotated masks of the classes that training has no masks of.
            is_thing: (M,) for each of them.
        """
        self.images += 1
        self.added += len(added)
        kinds = is_thing.long().cpu()
        self.annotated += _counts(kinds)
        if not len(added) or not len(unseen):
            return
        overlaps = mask_iou(added, unseen).cpu()
        best, match = overlaps.max(1)
        self.right += _counts(kinds[match[best >= IOU_THRESHOLD]])
        self.found += _counts(kinds[overlaps.amax(0) >= IOU_THRESHOLD])

    def compute(self) -> dict[str, int | float]:
        """The figures over all images so far.

        `precision` is the share of added masks with IoU 0.5 or more with an unseen mask (0 if none
        was added), `coverage` the share of unseen masks with such an added mask; for things and
        stuff apart, `precision_things` and `precision_stuff` add up to `precision`. Without unseen
        masks there is only `per_image`, the number of masks added; without images nothing.
        """
        if not self.images:
            return {}
        figures: dict[str, int | float] = {
            "images": self.images,
            "per_image": self.added / self.images,
        }
        for name, kinds in (("", [0, 1]), ("_things", [1]), ("_stuff", [0])):
            annotated = int(self.annotated[kinds].sum())
            if annotated:
                figures[f"precision{name}"] = int(self.right[kinds].sum()) / max(self.added, 1)
                figures[f"coverage{name}"] = int(self.found[kinds].sum()) / annotated
        return figures


def _counts(kinds: Tensor) -> np.ndarray:
    return torch.bincount(kinds, minlength=2).numpy()
