"""Names of released Mask2Former and ResNet weights, translated into ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..clip.loading import load_weights
from .found_sizes import backbone_options, decoder_options, found_sizes
from .released_parts import ReleasedParts
from .renaming import renamed
from .swin import swin_weights

_BACKBONE = (
    (r"^stem\.conv(\d)\.norm\.", r"bn\1."),
    (r"^stem\.conv(\d)\.", r"conv\1."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.norm\.", r"layer<\1-1>.\2.bn\3."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.", r"layer<\1-1>.\2.conv\3."),
    (r"^res(\d)\.(\d+)\.shortcut\.norm\.", r"layer<\1-1>.\2.downsample.1."),
    (r"^res(\d)\.(\d+)\.shortcut\.", r"layer<\1-1>.\2.downsample.0."),
)
_PIXEL_DECODER = (
    (r"^input_proj\.", "projections."),
    (r"^transformer\.level_embed$", "level_embeddings"),
    (r"^transformer\.encoder\.layers\.", "layers."),
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.attention."),
    (r"\.self_attn\.value_proj\.", ".attention.value."),
    (r"\.self_attn\.output_proj\.", ".attention.output."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".feedforward_norm."),
    (r"\.linear1\.", ".feedforward.0."),
    (r"\.linear2\.", ".feedforward.2."),
    (r"^adapter_1\.norm\.", "lateral.1."),
    (r"^adapter_1\.", "lateral.0."),
    (r"^layer_1\.norm\.", "smooth.1."),
    (r"^layer_1\.", "smooth.0."),
)
_MASK_DECODER = (
    (r"^(query_feat|static_query)\.", "query_features."),
    (r"^query_embed\.", "query_positions."),
    (r"^level_embed\.", "level_embeddings."),
    (r"^decoder_norm\.", "norm."),
    (r"^class_embed\.layers\.0\.", "class_head.embed.0."),
    (r"^class_embed\.layers\.1\.", "class_head.embed.2."),
    (r"^class_embed\.layers\.2\.", "class_head.embed.4."),
    (r"^class_embed\.", "class_head."),
    (r"^_mask_pooling_proj\.", "class_head.pooled."),
    (r"^logit_scale$", "class_head.logit_scale"),
    (r"^mask_embed\.layers\.0\.", "mask_head.0."),
    (r"^mask_embed\.layers\.1\.", "mask_head.2."),
    (r"^mask_embed\.layers\.2\.", "mask_head.4."),
    (
        r"^transformer_cross_attention_layers\.(\d+)\.multihead_attn\.",
        r"layers.\1.cross_attention.",
    ),
    (r"^transformer_cross_attention_layers\.(\d+)\.norm\.", r"layers.\1.cross_norm."),
    (r"^transformer_self_attention_layers\.(\d+)\.self_attn\.", r"layers.\1.self_attention."),
    (r"^transformer_self_attention_layers\.(\d+)\.norm\.", r"layers.\1.self_norm."),
    (r"^transformer_ffn_layers\.(\d+)\.linear1\.", r"layers.\1.feedforward.0."),
    (r"^transformer_ffn_layers\.(\d+)\.linear2\.", r"layers.\1.feedforward.2."),
    (r"^transformer_ffn_layers\.(\d+)\.norm\.", r"layers.\1.feedforward_norm."),
)
_PARTS = (
    ("backbone.", "backbone.", _BACKBONE),
    ("sem_seg_head.pixel_decoder.", "pixel_decoder.", _PIXEL_DECODER),
    ("pixel_decoder.", "pixel_decoder.", _PIXEL_DECODER),
    ("sem_seg_head.predictor.", "mask_decoder.", _MASK_DECODER),
    ("predictor.", "mask_decoder.", _MASK_DECODER),
)


_CLASS_HEAD = "mask_decoder.class_head.weight"
_SIZES = {"mask_dim": ("pixel_decoder.mask_features.weight", 0), "classes": (_CLASS_HEAD, 0)}
_NO_PROPOSER = (
    "there is no proposer in it: train one with 'ovseg train-proposals', or name a ready one with "
    "--set proposer.name=sam"
)
_HEADLESS = "there is no class head in it: every mask gets the object score 0.5"


def mask2former_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The proposer of a file in Mask2Former's layout: its public zoo's, or a first stage's.

    Args:
        state: the file's tensors; what belongs to a second stage is left out.
        heads: attention heads, which no shape tells.
        source: the file's name, for messages.
    """
    weights = mask2former_weights(state)
    if not weights:
        return ReleasedParts({}, notes=(_NO_PROPOSER,))
    notes = () if _CLASS_HEAD in weights else (_HEADLESS,)
    if notes:
        weights |= _even_class_head(weights)
    sizes = found_sizes(weights, _SIZES)
    proposer = {
        **backbone_options(weights),
        **decoder_options(weights, heads=heads),
        **sizes,
        "classes": max(1, sizes.get("classes", 2) - 1),  # "no object" is none
    }
    options = {"proposer": proposer, "classification": {"object_score": False} if notes else {}}
    return ReleasedParts(weights, options=options, notes=notes)


def _even_class_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of "object" and "no object", neither of them likelier for any mask."""
    queries = weights.get("mask_decoder.query_features.weight", torch.zeros(1, 1))
    return {
        _CLASS_HEAD: queries.new_zeros(2, queries.shape[-1]),
        _CLASS_HEAD.replace("weight", "bias"): queries.new_zeros(2),
    }


def mask2former_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, from a state dict in the released layout (detectron2's names).

    What is no part of backbone and decoders (the criterion's class weights) is left out. Files
    older than the published code, with `static_query` or without the `pixel_decoder` prefix, are
    understood.

    Args:
        released: tensors by released name, with or without `sem_seg_head.` in front.
    """
    swin = _swin_backbone(released)
    translated = dict(swin)
    for name, tensor in released.items():
        if swin and name.startswith("backbone."):
            continue
        for prefix, ours, rules in _PARTS:
            if _with_pixel_decoder(name).startswith(prefix):
                inner = _with_pixel_decoder(name).removeprefix(prefix)
                translated[ours + renamed(inner, rules)] = tensor
                break
    return translated


def _swin_backbone(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Swin's weights under our names; empty where the backbone is another."""
    prefix = "backbone."
    if f"{prefix}patch_embed.proj.weight" not in released:
        return {}
    backbone = {n.removeprefix(prefix): t for n, t in released.items() if n.startswith(prefix)}
    return {f"{prefix}{name}": tensor for name, tensor in swin_weights(backbone).items()}


def resnet_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's weights under our names, from detectron2's; other names stay as they are.

    Args:
        released: tensors by released name, such as `res2.0.conv1.norm.weight`.
    """
    return {renamed(name, _BACKBONE): tensor for name, tensor in released.items()}


def _with_pixel_decoder(name: str) -> str:
    head, parts = "sem_seg_head.", ("pixel_decoder.", "predictor.")
    inner = name.removeprefix(head)
    old = name.startswith(head) and not inner.startswith(parts)
    return f"{head}pixel_decoder.{inner}" if old else name


def load_mask2former(model: nn.Module, released: Mapping[str, Tensor], *, source: str) -> None:
    """Fills a model with released weights.

    Args:
        model: a `Mask2Former` of the same sizes, or a part of one with the names it has there.
        released: tensors by released name.
        source: what to call the weights in errors.

    Raises:
        CheckpointError: tensors are missing, surplus, or of other shapes.
    """
    load_weights(model, mask2former_weights(released), source=source)
