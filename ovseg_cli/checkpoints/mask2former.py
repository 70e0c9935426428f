"""Names of released Mask2Former and ResNet weights, translated into ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..clip.loading import load_weights

_BACKBONE = (
    (r"^stem\.conv(\d)\.norm\.", r"bn\1."),
    (r"^stem\.conv(\d)\.", r"conv\1."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.norm\.", r"layer<\1>.\2.bn\3."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.", r"layer<\1>.\2.conv\3."),
    (r"^res(\d)\.(\d+)\.shortcut\.norm\.", r"layer<\1>.\2.downsample.1."),
    (r"^res(\d)\.(\d+)\.shortcut\.", r"layer<\1>.\2.downsample.0."),
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


def mask2former_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, from a state dict in the released layout (detectron2's names).

    What is no part of backbone and decoders (the criterion's class weights) is left out. Files
    older than the published code, with `static_query` or without the `pixel_decoder` prefix, are
    understood.

    Args:
        released: tensors by released name, with or without `sem_seg_head.` in front.
    """
    translated = {}
    for name, tensor in released.items():
        for prefix, ours, rules in _PARTS:
            if _with_pixel_decoder(name).startswith(prefix):
                inner = _with_pixel_decoder(name).removeprefix(prefix)
                translated[ours + _renamed(inner, rules)] = tensor
                break
    return translated


def resnet_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's weights under our names, from detectron2's; other names stay as they are.

    Args:
        released: tensors by released name, such as `res2.0.conv1.norm.weight`.
    """
    return {_renamed(name, _BACKBONE): tensor for name, tensor in released.items()}


def _with_pixel_decoder(name: str) -> str:
    head, parts = "sem_seg_head.", ("pixel_decoder.", "predictor.")
    inner = name.removeprefix(head)
    old = name.startswith(head) and not inner.startswith(parts)
    return f"{head}pixel_decoder.{inner}" if old else name


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), name)  # res2 is layer1


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
