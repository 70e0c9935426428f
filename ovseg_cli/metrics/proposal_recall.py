"""How many annotated masks some proposal covers, whatever its class."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
PIXELS = 1 << 16  # of every mask at once as floats


@dataclass(frozen=True)
class ProposalRecallResult:
    """Recall, 0 to 1, over annotated masks (not over classes); nan where there are none.

    Attributes:
        recall50: (K,) per class at IoU 0.5.
        annotated: (K,) masks that count.
        groups: `recall50`, `recall75` and `mean` (over IoU 0.5 to 0.95) by group name.
    """

    recall50: np.ndarray
    annotated: np.ndarray
    groups: dict[str, dict[str, float]]


class ProposalRecall:
    """Gathers the best IoU of every annotated mask that is no crowd."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.covered = np.zeros((classes, len(THRESHOLDS)), dtype=np.int64)
        self.annotated = np.zeros(classes, dtype=np.int64)

    def update(
        self,
        proposals: Bool[Tensor, "N H W"],
        masks: Bool[Tensor, "M H W"],
        labels: Int[Tensor, " M"],
        is_crowd: Bool[Tensor, " M"],
    ) -> None:
        """Counts an image's annotated masks.

        Args:
            proposals: (N, H, W) at the image's size.
            masks: (M, H, W) annotated.
            labels: (M,) class indices.
            is_crowd: (M,) these do not count.
        """
        masks, labels = masks[~is_crowd], labels[~is_crowd]
        best = np.zeros(len(masks))
        if len(proposals) and len(masks):
            best = mask_iou(proposals, masks).amax(0).cpu().double().numpy()
        classes = labels.cpu().numpy()
        np.add.at(self.covered, classes, best[:, None] >= np.array(THRESHOLDS) - 1e-6)
        np.add.at(self.annotated, classes, 1)

    def compute(self, groups: Groups) -> ProposalRecallResult:
        """The result over all images so far.

        Args:
            groups: class indices by name.
        """
        counts = self.annotated
        recall50 = np.divide(
            self.covered[:, 0], counts, out=np.full(len(counts), np.nan), where=counts > 0
        )
        return ProposalRecallResult(
            recall50, counts.copy(), {name: self._group(list(m)) for name, m in groups.items()}
        )

    def _group(self, members: list[int]) -> dict[str, float]:
        count = self.annotated[members].sum()
        recall = self.covered[members].sum(0) / count if count else np.full(10, np.nan)
        return {
            "recall50": float(recall[0]),
            "recall75": float(recall[THRESHOLDS.index(0.75)]),
            "mean": float(recall.mean()),
        }


def mask_iou(first: Bool[Tensor, "N H W"], second: Bool[Tensor, "M H W"]) -> Float[Tensor, "N M"]:
    """Intersection over union of every pair of masks; 0 for two empty ones.

    Args:
        first: (N, H, W).
        second: (M, H, W).
    """
    shared = torch.zeros(len(first), len(second), device=first.device)
    areas, other_areas = shared.new_zeros(len(first), 1), shared.new_zeros(len(second))
    chunks = (masks.flatten(1).split(PIXELS, 1) for masks in (first, second))
    for some, others in zip(*chunks, strict=True):
        inside, other_inside = some.float(), others.float()
        shared += inside @ other_inside.T
        areas += inside.sum(1, keepdim=True)
        other_areas += other_inside.sum(1)
    return shared / (areas + other_areas - shared).clamp(min=1)
