"""Figures of one image: how good it is alone, and which segments were found under another name."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ovseg_cli.metrics.panoptic_quality import PanopticQuality


def image_quality(
    prediction: Int[Tensor, "H W"],
    prediction_labels: Int[Tensor, " S"],
    target: Int[Tensor, "H W"],
    target_labels: Int[Tensor, " M"],
    target_is_crowd: Bool[Tensor, " M"],
) -> float | None:
    """The panoptic quality of an image's segments, all classes counted together, 0 to 1.

    Args:
        prediction: (H, W) 0 is none, i is the i-th segment of `prediction_labels`, from 1.
        prediction_labels: (S,) class indices.
        target: (H, W) 0 is void, i is the i-th segment of `target_labels`, from 1.
        target_labels: (M,) class indices.
        target_is_crowd: (M,) COCO's crowd flag.

    Returns:
        None where nothing counts.
    """
    labels = torch.cat([prediction_labels, target_labels])
    metric = PanopticQuality(int(labels.max()) + 1 if len(labels) else 1)
    metric.update(prediction, prediction_labels, target, target_labels, target_is_crowd)
    wrong = metric.false_positives.sum() + metric.missed.sum()
    counted = metric.matched.sum() + wrong / 2
    return float(metric.iou_sum.sum() / counted) if counted else None


def image_iou(prediction: Int[Tensor, "H W"], target: Int[Tensor, "H W"]) -> float | None:
    """The mean IoU of the classes that an image shows or that are found in it, 0 to 1.

    Args:
        prediction: (H, W) class indices; -1 is no label and misses.
        target: (H, W) class indices; -1 is void and counts nowhere.

    Returns:
        None where nothing is annotated.
    """
    labelled = target >= 0
    truth, found = target[labelled], prediction[labelled]
    classes = torch.cat([truth, found[found >= 0]]).unique().tolist()
    shares = [
        ((truth == label) & (found == label)).sum() / ((truth == label) | (found == label)).sum()
        for label in classes
    ]
    return float(torch.stack(shares).mean()) if shares else None


def matched_segments(
    prediction: Int[Tensor, "H W"], target: Int[Tensor, "H W"], counted: Bool[Tensor, " M"]
) -> list[tuple[int, int]]:
    """Pairs of an annotated and a found segment whose IoU exceeds 0.5, whatever their classes.

    At most one segment can match another, as in panoptic quality; void is taken out of the union.

    Args:
        prediction: (H, W) 0 is none, segments count from 1.
        target: (H, W) 0 is void, segments count from 1.
        counted: (M,) False for those that match nothing, such as crowds.

    Returns:
        (annotated, found) as indices from 0.
    """
    rows, columns = len(counted) + 1, int(prediction.max()) + 1
    cells = (target.long() * columns + prediction.long()).flatten()
    overlap = cells.bincount(minlength=rows * columns).reshape(rows, columns).cpu().numpy()
    shared, void = overlap[1:, 1:], overlap[0, 1:]
    union = overlap[1:].sum(1)[:, None] + overlap[:, 1:].sum(0) - shared - void
    match = (shared > 0.5 * union) & counted.cpu().numpy()[:, None]
    return [(int(row), int(column)) for row, column in np.argwhere(match)]
