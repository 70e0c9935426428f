"""Agreement with MAFT's released class in training: targets, both losses, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from released_maft import framed_of, student_and_teacher, texts_of
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.classification import Classification
from ovseg_cli.clip.parameter_groups import freeze
from ovseg_cli.losses.mask_aware import ClassOverlaps, stretched
from ovseg_cli.losses.self_distillation import self_distillation_loss
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.stages.maft_examples import Batch, class_overlaps
from ovseg_cli.stages.maft_options import MaftOptions
from ovseg_cli.stages.tune_maft import maft_losses

CASES = pytest.mark.parametrize("path", cases("maft_losses_"))
IMAGES = 2


def overlaps_of(tensors: dict[str, Tensor]) -> tuple[ClassOverlaps, ...]:
    """What the case's masks cover, the annotations padded with zeros to the padded image."""
    found = []
    for index in range(IMAGES):
        framed = framed_of(tensors, index)
        (height, width), masks = framed.frame.padded, tensors[f"input.gt_masks_{index}"] > 0
        masks = F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
        labels = tensors[f"input.gt_classes_{index}"].long()
        mask_logits = tensors["input.pred_masks"][index]
        found.append(
            class_overlaps(mask_logits, masks, labels, at=(height, width), align_corners=True)
        )
    return tuple(found)


def batch_of(tensors: dict[str, Tensor], encoder: ImageProposals) -> Batch:
    framed = [framed_of(tensors, index) for index in range(IMAGES)]
    images = torch.stack([encoder.squashed(one) for one in framed])
    likely = [
        encoder.mask_probabilities(masks, one.frame)
        for masks, one in zip(tensors["input.pred_masks"], framed, strict=True)
    ]
    visible = encoder.visible_patches(torch.stack(likely))
    return Batch(images, visible, overlaps_of(tensors), encoder.teacher(images))


def losses_of(
    tensors: dict[str, Tensor], metadata: dict[str, Any], **options: Any
) -> tuple[ImageProposals, dict[str, Tensor]]:
    encoder = student_and_teacher(tensors, metadata)
    losses = maft_losses(
        encoder,
        batch_of(tensors, encoder),
        text_embeddings=texts_of(tensors),
        classification=Classification(scale=100.0, background=None),
        options=MaftOptions(**options),
    )
    return encoder, losses


def in_the_cases_order(tensors: dict[str, Tensor]) -> list[Tensor]:
    """For each image the rows that its annotations have among ours, which ascend by class."""
    return [tensors[f"input.gt_classes_{i}"].long().argsort() for i in range(IMAGES)]


@CASES
def test_overlaps_and_targets_agree(path: Path) -> None:
    tensors, _ = load(path)
    found = overlaps_of(tensors)
    start = 0
    for overlap, order in zip(found, in_the_cases_order(tensors), strict=True):
        iou = tensors["mid.iou"][start : start + len(order)][order]
        target = tensors["mid.ma_target"][start : start + len(order)][order]
        torch.testing.assert_close(overlap.iou, iou, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(stretched(overlap.iou), target, atol=2e-4, rtol=1e-4)
        start += len(order)


@CASES
def test_embeddings_of_student_and_teacher_agree(path: Path) -> None:
    tensors, metadata = load(path)
    encoder = student_and_teacher(tensors, metadata)
    batch = batch_of(tensors, encoder)
    masks = batch.visible.float().unflatten(2, (encoder.grid, encoder.grid))
    of_masks, of_images = encoder(batch.images, masks)
    tolerance = {"atol": 2e-4, "rtol": 1e-4}
    torch.testing.assert_close(of_masks, tensors["mid.student_mask_embeddings"], **tolerance)
    torch.testing.assert_close(of_images, tensors["mid.student_global"], **tolerance)
    torch.testing.assert_close(batch.taught, tensors["mid.teacher_global"], **tolerance)


@CASES
def test_both_losses_agree(path: Path) -> None:
    tensors, metadata = load(path)
    _, losses = losses_of(tensors, metadata, distillation_weight=metadata["dis_weight"])
    torch.testing.assert_close(losses["mask_aware"], tensors["output.ma_loss"], atol=1e-5, rtol=0)
    expected = tensors["output.dis_loss_weighted"]
    torch.testing.assert_close(losses["distillation"], expected, atol=1e-5, rtol=0)
    plain = F.smooth_l1_loss(tensors["mid.dis_student"], tensors["mid.dis_teacher"])
    by_logits = self_distillation_loss(
        tensors["mid.dis_student"].log(), tensors["mid.dis_teacher"].log()
    )
    torch.testing.assert_close(by_logits, plain)


@CASES
def test_gradients_agree(path: Path) -> None:
    tensors, metadata = load(path)
    encoder, losses = losses_of(tensors, metadata)
    losses["mask_aware"].backward()
    visual = encoder.visual
    last = visual.transformer.resblocks[-1].attn.in_proj_weight.grad
    tolerance = {"atol": 2e-5, "rtol": 1e-3}
    torch.testing.assert_close(last, tensors["output.ma_grad.resblocks_last_in_proj"], **tolerance)
    found = visual.ln_post.weight.grad
    torch.testing.assert_close(found, tensors["output.ma_grad.ln_post_weight"], **tolerance)


@CASES
def test_what_is_trained_by_default_is_what_was_released(path: Path) -> None:
    tensors, metadata = load(path)
    visual = student_and_teacher(tensors, metadata).visual
    freeze(visual, MaftOptions().frozen)
    trained = sorted(name for name, p in visual.named_parameters() if p.requires_grad)
    assert trained == sorted(metadata["trainable"])
