"""Names of OVSeg's released MaskFormer and of Swin weights, translated into ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ovseg_cli.checkpoints.mask2former import mask2former_weights
from ovseg_cli.errors import CheckpointError

_HEAD = "sem_seg_head."
_BACKBONE = "backbone."
_NO_OBJECT = "clip_adapter.non_object_embedding"
_NEEDED = (_NO_OBJECT, "sem_seg_head.predictor.class_embed.layers.0.weight")
_SWIN = (
    (r"^patch_embed\.proj\.", "embed."),
    (r"^patch_embed\.norm\.", "embed_norm."),
    (r"^layers\.(\d)\.downsample\.", r"layer<\1+2>.merge."),  # it is the next stage's beginning
    (r"^layers\.(\d)\.", r"layer<\1+1>."),
    (r"\.(norm1)\.", ".attention_norm."),
    (r"\.(norm2)\.", ".feedforward_norm."),
    (r"^norm(\d)\.", r"layer<\1+1>.norm."),
    (r"\.attn\.relative_position_bias_table$", ".attention.position_biases"),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.output."),
    (r"\.mlp\.fc1\.", ".feedforward.0."),
    (r"\.mlp\.fc2\.", ".feedforward.2."),
)
_SWIN_UNUSED = re.compile(r"^(norm|head)\.|relative_position_index$|attn_mask$")
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
_NUMBER = re.compile(r"<(?:(\d)\*)?(\d)([+-]\d)?>")


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
    weights = _backbone_weights(_without(_BACKBONE, state))
    for name, tensor in state.items():
        for prefix, ours, rules in _PARTS:
            inner = _with_pixel_decoder(name)
            if inner.startswith(prefix):
                weights[ours + _renamed(inner.removeprefix(prefix), rules)] = tensor
    return {**weights, "no_object.weight": state[_NO_OBJECT]}


def swin_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Swin under our names, from the layout in which Swin is released.

    A classifier, the norm before it, and tables that can be computed are left out. No tensor is
    turned: patch merging puts its neighbours' channels together in the same order, see
    `PatchMerging`. In timm's layout a stage's `downsample` is the stage's own, so that its files
    are not for this function.

    Args:
        released: tensors by released name.
    """
    return {
        _renamed(name, _SWIN): tensor
        for name, tensor in released.items()
        if not _SWIN_UNUSED.search(name)
    }


def _backbone_weights(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith("patch_embed.") for name in released):
        named = swin_weights(released)
        return {f"{_BACKBONE}{name}": tensor for name, tensor in named.items()}
    return mask2former_weights({f"{_BACKBONE}{name}": t for name, t in released.items()})


def _without(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _with_pixel_decoder(name: str) -> str:
    inner = name.removeprefix(_HEAD)
    old = name.startswith(_HEAD) and not inner.startswith(("pixel_decoder.", "predictor."))
    return f"{_HEAD}pixel_decoder.{inner}" if old else name


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return _NUMBER.sub(lambda n: str(int(n[1] or 1) * int(n[2]) + int(n[3] or 0)), name)
