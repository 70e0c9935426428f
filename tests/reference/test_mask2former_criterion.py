"""Matching and losses with the released code's prescribed points."""

import pytest
import torch
from reference_cases import cases, load
from torch import Tensor

from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.losses.points import GivenPoints
from ovseg_cli.losses.set_criterion import SetCriterion

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def weights_in(metadata) -> tuple[float, float, float]:
    weights = metadata["weights_ce_mask_dice"]
    parts = weights.split(",") if isinstance(weights, str) else weights
    return tuple(float(part) for part in parts)


def targets_in(tensors: dict[str, Tensor]) -> list[MaskTargets]:
    """The annotations of each image; a case may leave those of an image without any out."""
    size = next(
        (m.shape[1:] for k, m in tensors.items() if k.startswith("input.gt_masks_")), (1, 1)
    )
    return [
        MaskTargets(
            masks=tensors.get(f"input.gt_masks_{image}", torch.zeros(0, *size)),
            labels=tensors.get(f"input.gt_labels_{image}", torch.zeros(0)).long(),
            image_id=image,
        )
        for image in range(len(tensors["input.pred_logits"]))
    ]


@pytest.mark.parametrize("case", cases("mask2former_criterion_"))
def test_matching_and_losses_agree_with_the_released_code(case):
    tensors, metadata = load(case)
    class_weight, mask_weight, dice_weight = weights_in(metadata)
    criterion = SetCriterion(
        class_weight=class_weight,
        mask_weight=mask_weight,
        dice_weight=dice_weight,
        no_object_weight=float(metadata["eos_coef"]),
    )
    matcher = SetCriterion(
        class_weight=float(metadata["cost_class"]),
        mask_weight=float(metadata["cost_mask"]),
        dice_weight=float(metadata["cost_dice"]),
    )
    class_logits = tensors["input.pred_logits"].clone().requires_grad_()
    mask_logits = tensors["input.pred_masks"].clone().requires_grad_()
    targets = targets_in(tensors)
    where = tensors["input.points_matching"]

    matches = matcher.matches(class_logits.detach(), mask_logits.detach(), targets, where)
    costs = matcher.costs(class_logits.detach(), mask_logits.detach(), targets, where)
    first = 0
    for image, (target, count) in enumerate(zip(targets, matches.counts, strict=True)):
        cost = costs[image, :, : len(target.labels)]
        none = torch.zeros(0)
        expected = tensors.get(f"mid.cost_{image}", none).reshape(cost.shape)
        assert torch.allclose(cost, expected, **TOLERANCE)
        pairs = slice(first, first + count)
        queries = tensors.get(f"output.matched_query_{image}", none).long()
        annotations = tensors.get(f"output.matched_gt_{image}", none).long()
        assert torch.equal(matches.queries[pairs], queries)
        assert torch.equal(matches.annotations[pairs], annotations)
        first += count

    points = tensors.get("input.points_loss", torch.zeros(0, *where.shape[1:]))
    losses = criterion.losses(class_logits, mask_logits, targets, GivenPoints(where, points))
    for name, key in (("class", "ce"), ("mask", "mask"), ("dice", "dice")):
        assert torch.allclose(losses[name], tensors[f"output.loss_{key}"].squeeze(), **TOLERANCE)
    total = sum(
        weight * losses[name]
        for name, weight in zip(
            ("class", "mask", "dice"), (class_weight, mask_weight, dice_weight), strict=True
        )
    )
    total.backward()
    assert torch.allclose(class_logits.grad, tensors["output.grad_logits"], **TOLERANCE)
    assert torch.allclose(mask_logits.grad, tensors["output.grad_masks"], **TOLERANCE)
