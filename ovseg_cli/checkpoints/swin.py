"""Names of released Swin weights, translated into ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from ovseg_cli.checkpoints.renaming import renamed

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
        renamed(name, _SWIN): tensor
        for name, tensor in released.items()
        if not _SWIN_UNUSED.search(name)
    }
