"""The decoders on the released code's random weights, which go in through the importer."""

import pytest
import torch
from plain import mask2former as plain
from reference_cases import cases, load
from torch import Tensor, nn

from ovseg_cli.checkpoints.mask2former import load_mask2former
from ovseg_cli.proposers.mask2former.mask_decoder import MaskDecoder, MaskPredictions
from ovseg_cli.proposers.mask2former.pixel_decoder import DecodedPixels, PixelDecoder

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


def head_of(tensors: dict[str, Tensor], heads: int) -> nn.ModuleDict:
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }
    pixel = "pixel_decoder.transformer.encoder.layers."
    predictor = "predictor.transformer_ffn_layers."
    queries, hidden = weights["predictor.query_feat.weight"].shape
    mask_dim = len(weights["pixel_decoder.mask_features.weight"])
    offsets = len(weights[f"{pixel}0.self_attn.sampling_offsets.weight"])
    head = nn.ModuleDict(
        {
            "pixel_decoder": PixelDecoder(
                [tensors[f"input.res{stage}"].shape[1] for stage in (2, 3, 4, 5)],
                hidden_dim=hidden,
                mask_dim=mask_dim,
                layers=layers_in(weights, pixel),
                heads=heads,
                points=offsets // (2 * 3 * heads),
                feedforward_dim=len(weights[f"{pixel}0.linear1.weight"]),
            ),
            "mask_decoder": MaskDecoder(
                hidden_dim=hidden,
                mask_dim=mask_dim,
                queries=queries,
                classes=len(weights["predictor.class_embed.weight"]) - 1,
                layers=layers_in(weights, predictor),
                heads=heads,
                feedforward_dim=len(weights[f"{predictor}0.linear1.weight"]),
            ),
        }
    )
    load_mask2former(head, weights, source="the case")
    return head.eval()


def layers_in(weights: dict[str, Tensor], prefix: str) -> int:
    return 1 + max(
        int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)
    )


@torch.no_grad()
def predicted(
    head: nn.ModuleDict, tensors: dict[str, Tensor], *, every_layer: bool
) -> tuple[DecodedPixels, list[MaskPredictions]]:
    pixels = head["pixel_decoder"]([tensors[f"input.res{stage}"] for stage in (2, 3, 4, 5)])
    return pixels, head["mask_decoder"](pixels, every_layer=every_layer)


@pytest.mark.parametrize("case", cases("masqclip_proposal_head_"))
def test_the_decoders_agree_with_the_released_code(case):
    tensors, metadata = load(case)
    head = head_of(tensors, heads=int(metadata["heads"]))
    pixels, predictions = predicted(head, tensors, every_layer=True)

    assert torch.allclose(pixels.mask_features, tensors["mid.mask_features"], **TOLERANCE)
    for index, level in enumerate(pixels.levels):
        assert torch.allclose(level, tensors[f"mid.multi_scale_{index}"], **TOLERANCE)
    for index, prediction in enumerate(predictions[:-1]):
        assert torch.allclose(prediction.classes, tensors[f"mid.aux_logits_{index}"], **TOLERANCE)
        if f"mid.aux_masks_{index}" in tensors:
            expected = tensors[f"mid.aux_masks_{index}"]
            assert torch.allclose(prediction.mask_logits, expected, **TOLERANCE)
    final = predictions[-1]
    assert torch.allclose(final.classes, tensors["output.pred_logits"], **TOLERANCE)
    assert torch.allclose(final.mask_logits, tensors["output.pred_masks"], **TOLERANCE)


@pytest.mark.parametrize("case", cases("masqclip_proposal_head_"))
def test_skipping_the_intermediate_masks_changes_nothing(case):
    tensors, metadata = load(case)
    head = head_of(tensors, heads=int(metadata["heads"]))
    _, (final,) = predicted(head, tensors, every_layer=False)
    assert torch.allclose(final.mask_logits, tensors["output.pred_masks"], **TOLERANCE)
    assert torch.allclose(final.classes, tensors["output.pred_logits"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("masqclip_proposal_head_"))
def test_the_plain_decoders_of_the_benchmark_agree_too(case):
    tensors, metadata = load(case)
    head = head_of(tensors, heads=int(metadata["heads"]))
    features = [tensors[f"input.res{stage}"] for stage in (2, 3, 4, 5)]
    pixels = plain.decoded_pixels(head["pixel_decoder"], features)
    class_logits, mask_logits = plain.decoded_masks(head["mask_decoder"], pixels)[-1]
    assert torch.allclose(class_logits, tensors["output.pred_logits"], **TOLERANCE)
    assert torch.allclose(mask_logits, tensors["output.pred_masks"], **TOLERANCE)
