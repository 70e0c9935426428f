"""How often a worse mask of something is scored above the good one.

MAFT (Jiao et al., NeurIPS 2023), figure 3: a CLIP that was not tuned for masks gives masks of very
different quality much the same scores. The paper shows it on a few proposals; here it is a number,
from two worse versions of every annotated mask that are made by rule.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups

SMALLEST = 4  # pixels of a mask of which there are worse versions


@dataclass(frozen=True)
class SensitivityShares:
    """Shares of the masks, 0 to 1, nan without any.

    Attributes:
        half: the half-covered version scores above the mask.
        background: the background-heavy version does.
        either: one of the two does.
        masks: how many were compared.
    """

    half: float
    background: float
    either: float
    masks: int


def half_covered(mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """The mask's first half, from the left or the top along the longer side of its box.

    It keeps half of the mask's pixels, rounded down, and nothing else: their IoU is a half. Pixels
    of one column (or row) are taken from the top (or the left).

    Args:
        mask: at least two pixels.
    """
    rows, columns = mask.nonzero().T
    wide = int(columns.max() - columns.min()) >= int(rows.max() - rows.min())
    along, across = (columns, rows) if wide else (rows, columns)
    order = (along * (max(mask.shape) + 1) + across).argsort()[: len(rows) // 2]
    half = torch.zeros_like(mask)
    half[rows[order], columns[order]] = True
    return half


def background_heavy(mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """The mask and as many pixels again that are not in it, the nearest: their IoU is a half.

    Pixels of one distance are taken in reading order.

    Args:
        mask: from one pixel to half of the image.

    Raises:
        ValueError: it is empty, or more than half of the image.
    """
    area = int(mask.sum())
    if not 0 < 2 * area <= mask.numel():
        raise ValueError(f"a mask of {area} of {mask.numel()} pixels has no such version")
    distance = distance_transform_edt(~mask.cpu().numpy()).ravel()  # 0 inside of the mask
    farthest = np.partition(distance, 2 * area - 1)[2 * area - 1]
    heavy = distance < farthest
    at_the_border = np.flatnonzero(distance == farthest)
    heavy[at_the_border[: 2 * area - int(heavy.sum())]] = True
    return torch.from_numpy(heavy).view_as(mask).to(mask.device)


def compared(masks: Bool[Tensor, "M H W"]) -> Bool[Tensor, " M"]:
    """Which masks have worse versions: those from 4 pixels to half of the image.

    Args:
        masks: annotated.
    """
    areas = masks.flatten(1).sum(1)
    return (areas >= SMALLEST) & (2 * areas <= masks.shape[1] * masks.shape[2])


class MaskSensitivity:
    """Counts masks whose worse versions score higher for the mask's class."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.counts = np.zeros((4, classes), dtype=np.int64)  # half, background, either, masks

    def update(
        self,
        good: Float[Tensor, " M"],
        half: Float[Tensor, " M"],
        background: Float[Tensor, " M"],
        labels: Int[Tensor, " M"],
    ) -> None:
        """Counts masks; equal scores are not above.

        Args:
            good: the masks' scores for their own classes.
            half: those of their `half_covered` versions.
            background: those of their `background_heavy` versions.
            labels: the masks' classes.
        """
        above = [half > good, background > good]
        rows = torch.stack([*above, above[0] | above[1], torch.ones_like(above[0])])
        for counts, row in zip(self.counts, rows.cpu().numpy(), strict=True):
            np.add.at(counts, labels.cpu().numpy(), row)

    def compute(self, groups: Groups) -> dict[str, dict[str, float]]:
        """The `SensitivityShares` of each group's masks so far.

        Args:
            groups: class indices by name.
        """
        sums = {name: self.counts[:, list(members)].sum(1) for name, members in groups.items()}
        return {name: asdict(_shares(counts)) for name, counts in sums.items()}


def _shares(counts: np.ndarray) -> SensitivityShares:
    half, background, either = counts[:3] / counts[3] if counts[3] else np.full(3, np.nan)
    return SensitivityShares(float(half), float(background), float(either), int(counts[3]))
