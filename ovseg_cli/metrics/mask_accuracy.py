"""Accuracy of naming masks (or crops) that are given."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups, group_means, harmonic_mean


@dataclass(frozen=True)
class MaskAccuracyResult:
    """Mean class accuracy, 0 to 1.

    Attributes:
        accuracy: (K,) per class; nan where nothing of it was given.
        given: (K,) masks of each class.
        groups: mean over the classes of each group.
        harmonic: of base and novel, None where these are not known.
    """

    accuracy: np.ndarray
    given: np.ndarray
    groups: dict[str, float]
    harmonic: float | None


class MaskAccuracy:
    """Counts how often the best class is the annotated one."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.correct = np.zeros(classes, dtype=np.int64)
        self.given = np.zeros(classes, dtype=np.int64)

    def update(self, prediction: Int[Tensor, " M"], target: Int[Tensor, " M"]) -> None:
        """Counts masks.

        Args:
            prediction: (M,) class indices.
            target: (M,) class indices.
        """
        truth, right = target.cpu().numpy(), (prediction == target).cpu().numpy()
        np.add.at(self.given, truth, 1)
        np.add.at(self.correct, truth, right)

    def compute(self, groups: Groups) -> MaskAccuracyResult:
        """The result over all masks so far.

        Args:
            groups: class indices by name.
        """
        accuracy = np.divide(
            self.correct,
            self.given,
            out=np.full(len(self.given), np.nan),
            where=self.given > 0,
        )
        means = group_means(accuracy, groups)
        both = "base" in means and "novel" in means
        harmonic = harmonic_mean(means["base"], means["novel"]) if both else None
        return MaskAccuracyResult(accuracy, self.given.copy(), means, harmonic)
