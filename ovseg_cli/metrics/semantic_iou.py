"""Mean intersection over union of semantic maps, by both published rules.

They differ where a class is predicted that the ground truth never has: since July 2022 detectron2
averages over the classes of the ground truth, before it divided by the classes of ground truth or
prediction. PC-459 differs by 4 points between the two.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups, mean_of


@dataclass(frozen=True)
class SemanticIouResult:
    """Intersection over union, 0 to 1.

    Attributes:
        iou: (K,) per class; nan where it is in neither ground truth nor prediction.
        in_ground_truth: (K,) True where the ground truth has pixels of the class.
        miou: per group, mean over the classes in the ground truth (detectron2 since July 2022).
        miou_union: per group, over the classes in ground truth or prediction (detectron2 0.6).
    """

    iou: np.ndarray
    in_ground_truth: np.ndarray
    miou: dict[str, float]
    miou_union: dict[str, float]


class SemanticIou:
    """Gathers a confusion matrix over all images."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.classes = classes
        self.confusion = np.zeros((classes, classes + 1), dtype=np.int64)  # ground truth first

    def update(self, prediction: Int[Tensor, "H W"], target: Int[Tensor, "H W"]) -> None:
        """Counts an image's pixels.

        Args:
            prediction: (H, W) class indices; -1 is no label and misses.
            target: (H, W) class indices; -1 is void and counts nowhere.

        Raises:
            ValueError: an index is neither -1 nor one of the K classes.
        """
        for name, labels in (("prediction", prediction), ("target", target)):
            _check_range(name, labels, self.classes)
        # one further on, so that -1 is row or column 0
        side = self.classes + 1
        cells = (target.long() + 1) * side + (prediction.long() + 1)
        counts = cells.flatten().bincount(minlength=side * side).cpu().numpy()
        there = side + np.flatnonzero(counts[side:])  # without the row of void
        self.confusion[there // side - 1, there % side - 1] += counts[there]

    def compute(self, groups: Groups) -> SemanticIouResult:
        """The result over all images so far.

        Args:
            groups: class indices by name.
        """
        inside = self.confusion[:, : self.classes]
        hits = np.diag(inside).astype(np.float64)
        truth, predicted = self.confusion.sum(1), inside.sum(0)
        union = truth + predicted - hits
        iou = np.divide(hits, union, out=np.full(self.classes, np.nan), where=union > 0)
        in_truth = np.where(truth > 0, iou, np.nan)
        return SemanticIouResult(
            iou=iou,
            in_ground_truth=truth > 0,
            miou={name: mean_of(in_truth, members) for name, members in groups.items()},
            miou_union={name: mean_of(iou, members) for name, members in groups.items()},
        )


def _check_range(name: str, labels: Tensor, classes: int) -> None:
    if not labels.numel():
        return
    lowest, highest = (int(value) for value in labels.aminmax())
    if lowest < -1 or highest >= classes:
        raise ValueError(f"{name}: indices from {lowest} to {highest}, there are {classes} classes")
