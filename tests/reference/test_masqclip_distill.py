"""The choice of pseudo masks with the released code's prescribed points."""

import pytest
import torch
from reference_cases import cases, load

from ovseg_cli.losses.pseudo_masks import ComparisonPoints, pseudo_masks


@pytest.mark.parametrize("case", cases("masqclip_distill_"))
def test_the_masks_agree_with_the_released_code(case):
    tensors, metadata = load(case)
    masks = tensors["input.pred_masks"]
    size = masks.shape[-2:]
    annotated = tensors.get("input.gt_masks", masks.new_zeros(0, *size))
    others = tensors["input.points_nms"].reshape(-1, 2)
    points = tensors.get("input.points_gt_check", others).reshape(-1, 2)
    chosen = pseudo_masks(
        masks > 0.5,
        tensors["input.scores"],
        annotated > 0.5,
        score_threshold=float(metadata["score_threshold"]),
        overlap_threshold=float(metadata["dice_threshold"]),
        points=ComparisonPoints(points, others),
    )
    expected = tensors.get("output.gt_masks", masks.new_zeros(0, *size))
    assert torch.equal(torch.cat([annotated, masks[chosen]]), expected)
