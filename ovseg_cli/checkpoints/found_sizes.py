"""The sizes of a proposer, read from the shapes of its weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ovseg_cli.proposers.mask2former.pixel_decoder import LEVELS
from ovseg_cli.proposers.resnet import BACKBONES, Bottleneck
from ovseg_cli.proposers.swin import SWINS

STAGES = (1, 2, 3, 4)
Sizes = Mapping[str, tuple[str, int]]  # an option, and the tensor and axis that have its size
MASK2FORMER: Sizes = {
    "hidden_dim": ("mask_decoder.query_features.weight", 1),
    "queries": ("mask_decoder.query_features.weight", 0),
    "encoder_feedforward_dim": ("pixel_decoder.layers.0.feedforward.0.weight", 0),
    "feedforward_dim": ("mask_decoder.layers.0.feedforward.0.weight", 0),
}


def found_sizes(weights: Mapping[str, Tensor], sizes: Sizes) -> dict[str, int]:
    """Options that a table finds in shapes; those whose tensor is missing are left out.

    Args:
        weights: a proposer's, by our names.
        sizes: where each option is.
    """
    return {
        option: weights[name].shape[axis]
        for option, (name, axis) in sizes.items()
        if name in weights and weights[name].ndim > axis
    }


def decoder_options(weights: Mapping[str, Tensor], *, heads: int) -> dict[str, int]:
    """The options that all kinds of Mask2Former have, by the shapes of their weights.

    Args:
        weights: by our names.
        heads: attention heads, which no shape tells.
    """
    options = found_sizes(weights, MASK2FORMER)
    options["encoder_layers"] = layer_count(weights, "pixel_decoder.layers.")
    options["decoder_layers"] = layer_count(weights, "mask_decoder.layers.")
    offsets = weights.get("pixel_decoder.layers.0.attention.offsets.bias")
    points = 0 if offsets is None else len(offsets) // (2 * LEVELS * heads)
    return {option: size for option, size in {**options, "sampling_points": points}.items() if size}


def layer_count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers there are, such as `layers.0.` to `layers.8.`.

    Args:
        weights: by our names.
        prefix: such as `mask_decoder.layers.`.
    """
    numbers = {
        int(name.removeprefix(prefix).partition(".")[0])
        for name in weights
        if re.match(re.escape(prefix) + r"\d+\.", name)
    }
    return len(numbers)


def backbone_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Which ResNet or Swin a proposer's backbone is; empty where it is none that is known.

    Args:
        weights: the proposer's, by our names.
    """
    prefix = "backbone."
    backbone = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    return _swin(backbone) if "embed.weight" in backbone else _resnet(backbone)


def _resnet(backbone: Mapping[str, Tensor]) -> dict[str, Any]:
    depths = tuple(layer_count(backbone, f"layer{stage}.") for stage in STAGES)
    bottleneck, deep = "layer1.0.conv3.weight" in backbone, "conv3.weight" in backbone
    for name, known in BACKBONES.items():
        alike = (known.depths, known.block is Bottleneck, known.deep_stem)
        if alike == (depths, bottleneck, deep) and "conv1.weight" in backbone:
            width = len(backbone["conv1.weight"])
            return {"backbone": name, "backbone_width": width, "backbone_norm": "frozen_batch"}
    return {}


def _swin(backbone: Mapping[str, Tensor]) -> dict[str, Any]:
    depths = tuple(layer_count(backbone, f"layer{stage}.blocks.") for stage in STAGES)
    biases = backbone.get("layer1.blocks.0.attention.position_biases")
    table = None if biases is None else tuple(biases.shape)  # (positions, heads)
    for name, known in SWINS.items():
        if (depths, table) == (known.depths, ((2 * known.window - 1) ** 2, known.heads[0])):
            return {"backbone": name, "backbone_width": len(backbone["embed.weight"])}
    return {}
