"""Names of OVSeg's released MaskFormer, translated into ours."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ovseg_cli.checkpoints.found_sizes import backbone_options, found_sizes, layer_count
from ovseg_cli.checkpoints.mask2former import mask2former_weights
from ovseg_cli.checkpoints.renaming import renamed
from ovseg_cli.errors import CheckpointError

_HEAD = "sem_seg_head."
_BACKBONE = "backbone."
_NO_OBJECT = "clip_adapter.non_object_embedding"
_NEEDED = (_NO_OBJECT, "sem_seg_head.predictor.class_embed.layers.0.weight")
_SIZES = {
    "hidden_dim": ("query_decoder.query_positions.weight", 1),
    "mask_dim": ("pixel_decoder.mask_features.weight", 0),
    "embedding_hidden_dim": ("query_decoder.embedding_head.0.weight", 0),
    "queries": ("query_decoder.query_positions.weight", 0),
    "feedforward_dim": ("query_decoder.layers.0.feedforward.0.weight", 0),
}
_PIXEL_DECODER = (
    (r"^layer_4\.norm\.", "coarsest.1."),
    (r"^layer_4\.", "coarsest.0."),
    (r"^adapter_(\d)\.norm\.", r"laterals.<\1-1>.1."),
    (r"^adapter_(\d)\.", r"laterals.<\1-1>.0."),
    (r"^layer_(\d)\.norm\.", r"smooths.<\1-1>.1."),
    (r"^layer_(\d)\.", r"smooths.<\1-1>.0."),
)
_QUERY_DECODER = (
    (r"^query_embed\.", "query_positions."),
    (r"^input_proj\.", "projection."),
    (r"^transformer\.decoder\.norm\.", "norm."),
    (r"^transformer\.decoder\.layers\.", "layers."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.multihead_attn\.", ".cross_attention."),
    (r"\.norm1\.", ".self_norm."),
    (r"\.norm2\.", ".cross_norm."),
    (r"\.norm3\.", ".feedforward_norm."),
    (r"\.linear1\.", ".feedforward.0."),
    (r"\.linear2\.", ".feedforward.3."),
    (r"^mask_embed\.layers\.(\d)\.", r"mask_head.<2*\1>."),
    (r"^class_embed\.layers\.(\d)\.", r"embedding_head.<2*\1>."),
)
_PARTS = (
    ("sem_seg_head.pixel_decoder.", "pixel_decoder.", _PIXEL_DECODER),
    ("sem_seg_head.predictor.", "query_decoder.", _QUERY_DECODER),
)


def import_maskformer(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The proposer's weights in a released state dict, as `MaskFormer` names them.

    CLIP's part, see `import_ovseg`, and the criterion's buffers are left out. Files older than
    MaskFormer's second version, without the `pixel_decoder` prefix, are understood.

    Args:
        state: the file's tensors, those of a Swin or of a ResNet among them.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no MaskFormer with embeddings in CLIP's space.
    """
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise CheckpointError(
            f"{source}: no MaskFormer of OVSeg in it ({', '.join(missing)} missing); is it a file "
            "that OVSeg's training saved?"
        )
    backbone = {name: tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
    weights = mask2former_weights(backbone)
    for name, tensor in state.items():
        for prefix, ours, rules in _PARTS:
            inner = _with_pixel_decoder(name)
            if inner.startswith(prefix):
                weights[ours + renamed(inner.removeprefix(prefix), rules)] = tensor
    return {**weights, "no_object.weight": state[_NO_OBJECT]}


def maskformer_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of a `MaskFormer`, by the shapes of its weights.

    Args:
        weights: by our names.
    """
    layers = layer_count(weights, "query_decoder.layers.")
    sizes = {**found_sizes(weights, _SIZES), **({"decoder_layers": layers} if layers else {})}
    return {**backbone_options(weights), **sizes}


def _with_pixel_decoder(name: str) -> str:
    inner = name.removeprefix(_HEAD)
    old = name.startswith(_HEAD) and not inner.startswith(("pixel_decoder.", "predictor."))
    return f"{_HEAD}pixel_decoder.{inner}" if old else name
