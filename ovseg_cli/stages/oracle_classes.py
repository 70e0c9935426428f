"""Class scores from the annotations: the upper bound that proposals set to any classifier.

MAFT (Jiao et al., NeurIPS 2023), table 7: a proposal's score for a class is its IoU with the mask
of that class. OVSeg (Liang et al., CVPR 2023), its oracle experiment: proposals with the labels of
what they cover best. Of neither is there code: where a class has several segments the best IoU
counts, of each of them and of all together.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg_cli.structures import Frame, Sample
from ovseg_cli.upsampling import tiles

OracleClasses = Literal["iou", "label"]


def oracle_scores(
    mask_logits: Float[Tensor, "N h w"],
    frame: Frame,
    sample: Sample,
    *,
    classes: int,
    kind: OracleClasses = "iou",
) -> Float[Tensor, "N K"]:
    """What annotations say of proposals, in the place of class probabilities.

    Args:
        mask_logits: of N proposals.
        frame: how they lie in the image.
        sample: the annotated image; void pixels are outside of every class.
        classes: K.
        kind: `iou`, of mask probabilities and annotated masks; `label`, 1 for the class of the best
            IoU and 0 for the others, 0 for all where a proposal covers nothing.
    """
    regions, labels = _regions(sample)
    iou = _soft_iou(mask_logits, frame, regions.to(mask_logits.device))  # (N, R)
    scores = iou.new_zeros((len(iou), classes))
    columns = labels.to(iou.device).expand(len(iou), -1)
    scores.scatter_reduce_(1, columns, iou, "amax")
    if kind == "iou":
        return scores
    best, label = scores.max(1, keepdim=True)
    return torch.zeros_like(scores).scatter(1, label, (best > 0).to(scores))


def _regions(sample: Sample) -> tuple[Bool[Tensor, "R H W"], Tensor]:
    """Every segment, and every class's segments together, with their labels."""
    present = sample.labels.unique()
    together = [sample.masks[sample.labels == label].any(0, keepdim=True) for label in present]
    return torch.cat([sample.masks, *together]), torch.cat([sample.labels, present])


def _soft_iou(mask_logits: Tensor, frame: Frame, regions: Tensor) -> Float[Tensor, "N R"]:
    """As in the mask-aware loss, gathered tile by tile."""
    intersection = mask_logits.new_zeros((len(mask_logits), len(regions)))
    areas = mask_logits.new_zeros(len(mask_logits), 1)
    for tile in tiles(mask_logits, frame):
        likely = tile.logits.sigmoid().flatten(1)
        inside = regions[:, *tile.region].flatten(1).to(likely)
        intersection += likely @ inside.T
        areas += likely.sum(1, keepdim=True)
    union = areas + regions.flatten(1).sum(1) - intersection
    return intersection / (union + 1e-7)
