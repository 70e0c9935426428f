"""Mask class tokens and MasQ-Tuning's loss agree with the released code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import cases, load
from tiny_clip import tiny_clip
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.masqclip import import_masqclip
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.losses.classification import assign_labels, weighted_cross_entropy
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


def released(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> MaskClassTokens:
    state = {name[8:]: value for name, value in tensors.items() if name.startswith("weights.")}
    weights = import_masqclip(state, source=metadata["case"])
    clip = tiny_clip(
        resolution=metadata["input_resolution"],
        patch=metadata["patch_size"],
        width=metadata["width"],
        layers=metadata["layers"],
        heads=metadata["heads"],
        dim=metadata["output_dim"],
    )
    load_weights(clip.visual, weights.visual, source="visual")
    encoder = MaskClassTokens(clip, variant="q")
    missing, unexpected = encoder.load_state_dict(weights.mask_class_tokens, strict=False)
    assert not unexpected
    assert all(name.startswith("clip.") for name in missing)
    return encoder


@pytest.mark.parametrize("path", cases("masqclip_"))
def test_mask_class_tokens_agree(path: Path) -> None:
    tensors, metadata = load(path)
    encoder = released(tensors, metadata)
    images, mask_logits = tensors["input.image"], tensors["input.masks"]
    with torch.no_grad():
        pixels = encoder.clip.preprocess(images)
        visible = encoder.visible_patches(mask_logits)
        embeddings = encoder(images, visible)
    torch.testing.assert_close(pixels, tensors["mid.image_preprocessed"], **TOLERANCE)
    blocked = tensors["mid.attn_blocked"][..., 1:].bool()
    assert (~visible != blocked).float().mean() <= 1e-3
    torch.testing.assert_close(embeddings, tensors["output.mask_embeddings"], **TOLERANCE)
    texts = tensors["input.text_embeddings"]
    logits = 100 * F.normalize(embeddings, dim=-1) @ F.normalize(texts, dim=-1).mT
    torch.testing.assert_close(logits, tensors["output.pred_logits"], atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("path", cases("masqclip_train_"))
def test_label_assignment_and_loss_agree(path: Path) -> None:
    tensors, metadata = load(path)
    logits = tensors["input.logits"].requires_grad_()
    labels = []
    for image, mask_logits in enumerate(tensors["input.pred_masks"]):
        gt_masks = tensors.get(f"input.gt_masks_{image}", mask_logits[:0]) > 0.5
        gt_labels = tensors.get(f"input.gt_labels_{image}", torch.zeros(0)).long()
        assigned = assign_labels(
            mask_logits > 0,
            gt_masks,
            gt_labels,
            background=metadata["num_classes"],
            overlap="dice",
            threshold=1 - metadata["dice_distance_threshold"],
        )
        positive = (assigned.gt >= 0).nonzero().flatten()
        expected_queries = tensors.get(f"output.assigned_query_{image}", torch.zeros(0)).long()
        expected_gt = tensors.get(f"output.assigned_gt_{image}", torch.zeros(0)).long()
        order = expected_queries.argsort()
        assert torch.equal(positive, expected_queries[order])
        assert torch.equal(assigned.gt[positive], expected_gt[order])
        labels.append(assigned.labels)
    loss = weighted_cross_entropy(
        logits, torch.stack(labels), background_weight=metadata["eos_coef"]
    )
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensors["output.loss_ce_unweighted"], **TOLERANCE)
    torch.testing.assert_close(logits.grad, tensors["output.grad_logits"], **TOLERANCE)
