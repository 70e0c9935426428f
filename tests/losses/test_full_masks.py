import math

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.losses.focal import focal_loss, pairwise_focal_loss
from ovseg_cli.losses.full_masks import FullMaskCriterion
from ovseg_cli.losses.matches import MaskTargets

CRITERION = FullMaskCriterion()
LN3 = math.log(3)  # a probability of three quarters


def target(masks: torch.Tensor, labels: list[int]) -> MaskTargets:
    return MaskTargets(masks, torch.tensor(labels, dtype=torch.int64), image_id=0)


def test_focal_loss_by_hand():
    """Inside: 0.25 x (1 - p)^2 x -ln p; outside: 0.75 x p^2 x -ln(1 - p); the mean of the two."""
    logits, inside = torch.tensor([[LN3, LN3]]), torch.tensor([[1.0, 0.0]])
    of_inside = 0.25 * 0.25**2 * -math.log(0.75)
    of_outside = 0.75 * 0.75**2 * -math.log(0.25)
    assert focal_loss(logits, inside).item() == pytest.approx((of_inside + of_outside) / 2)


def test_every_pair_is_what_the_pair_alone_is():
    torch.manual_seed(0)
    logits, inside = torch.randn(3, 10), (torch.randn(2, 10) > 0).float()
    pairs = pairwise_focal_loss(logits, inside)
    for query in range(3):
        for annotation in range(2):
            alone = focal_loss(logits[query : query + 1], inside[annotation : annotation + 1])
            assert pairs[query, annotation].item() == pytest.approx(alone.item(), abs=1e-6)


def test_matching_cost_by_hand():
    """One query, one annotation, two pixels as above; dice is (2 x 0.75 + 1) / (1.5 + 1 + 1)."""
    class_logits = torch.tensor([[LN3, 0.0]])  # three quarters for class 0
    mask_logits = torch.tensor([[[LN3, LN3]]])
    annotated = target(torch.tensor([[[1.0, 0.0]]]), [0])
    focal = (0.25 * 0.25**2 * -math.log(0.75) + 0.75 * 0.75**2 * -math.log(0.25)) / 2
    expected = -0.75 + 20 * focal + (1 - 2.5 / 3.5)
    assert CRITERION.cost(class_logits, mask_logits, annotated).item() == pytest.approx(expected)


def test_matching_takes_every_fourth_pixel_of_the_annotation_as_released():
    mask_logits = torch.tensor([[[9.0, -9.0], [-9.0, -9.0]]])
    masks = torch.zeros(2, 8, 8)
    masks[0, 0, 0] = 1  # the one pixel that is looked at
    masks[1, 1:4, 1:4] = 1  # only pixels that are not
    cost = FullMaskCriterion(class_weight=0.0).cost(
        torch.zeros(1, 2), mask_logits, target(masks, [0, 0])
    )
    assert cost[0, 0].item() == pytest.approx(0, abs=1e-3)
    assert cost[0, 1].item() > 0.3


def test_the_losses_are_on_predictions_brought_to_the_annotations_size():
    torch.manual_seed(0)
    mask_logits, masks = torch.randn(1, 1, 4, 4), (torch.rand(1, 16, 16) > 0.5).float()
    losses = CRITERION.losses(torch.zeros(1, 1, 2), mask_logits, [target(masks, [0])])
    resized = F.interpolate(mask_logits, size=16, mode="bilinear", align_corners=False)
    expected = focal_loss(resized.flatten(2)[0], masks.flatten(1))
    assert losses["mask"].item() == pytest.approx(expected.item())


def test_weights_count_and_annotations_share():
    """Two images with three annotations: masks by their number, classes by their weights."""
    torch.manual_seed(0)
    targets = [target(torch.rand(count, 8, 8).round(), [0] * count) for count in (1, 2)]
    layers = [(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2, 2)) for _ in range(2)]
    losses = FullMaskCriterion(no_object_weight=0.0)(layers, targets, seed=0, step=0)
    assert losses["class"].item() == pytest.approx(2 * math.log(2))
    inside = torch.cat([of_image.masks for of_image in targets]).flatten(1)
    focal = focal_loss(torch.zeros(3, 64), inside).mean()
    assert losses["mask"].item() == pytest.approx(2 * 20 * focal.item())


def test_gradients_are_those_without_chunks():
    torch.manual_seed(0)
    mask_logits = torch.randn(2, 4, 4, 4, requires_grad=True)
    classes = torch.randn(2, 4, 3, requires_grad=True)
    targets = [target(torch.rand(2, 16, 16).round(), [0, 1]) for _ in range(2)]
    losses = CRITERION.losses(classes, mask_logits, targets)
    losses["mask"].backward()
    matches = CRITERION.matches(classes, mask_logits, targets)
    again = mask_logits.detach().clone().requires_grad_()
    chosen = again[matches.images, matches.queries]
    resized = F.interpolate(chosen[None], size=16, mode="bilinear", align_corners=False)[0]
    masks = torch.stack(
        [
            targets[int(image)].masks[int(annotation)]
            for image, annotation in zip(matches.images, matches.annotations, strict=True)
        ]
    )
    focal_loss(resized.flatten(1), masks.flatten(1)).mean().backward()
    torch.testing.assert_close(mask_logits.grad, again.grad)


def test_images_without_annotations_only_teach_no_object():
    classes = torch.zeros(1, 3, 2, requires_grad=True)
    masks = torch.zeros(1, 3, 2, 2, requires_grad=True)
    losses = CRITERION([(classes, masks)], [target(torch.zeros(0, 8, 8), [])], seed=0, step=0)
    assert losses["mask"].item() == losses["dice"].item() == 0
    sum(losses.values()).backward()
    assert (classes.grad[..., 1] < 0).all()
    assert (masks.grad == 0).all()


def test_the_process_mean_is_the_global_one_of_a_single_process():
    torch.manual_seed(0)
    layers = [(torch.randn(1, 3, 2), torch.randn(1, 3, 2, 2))]
    targets = [target(torch.rand(2, 8, 8).round(), [0, 0])]
    ours = CRITERION(layers, targets, seed=0, step=0)
    released = FullMaskCriterion(normaliser="process")(layers, targets, seed=0, step=0)
    assert ours == released
