"""MasQCLIP's released second-stage weights, brought into this project's modules."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ovseg_cli.checkpoints.mask2former import mask2former_parts
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.errors import CheckpointError

_QUERY = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn\.new_q_proj\.(weight|bias)")


class MasqclipWeights(NamedTuple):
    """The two parts of a released file.

    Attributes:
        visual: the frozen image tower, named as open_clip's `visual` names it.
        mask_class_tokens: what was tuned, named as `MaskClassTokens` names it.
    """

    visual: dict[str, Tensor]
    mask_class_tokens: dict[str, Tensor]


def masqclip_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The parts of a released file: proposer, CLIP's frozen image tower, and what was tuned.

    Args:
        state: the file's tensors, those of the proposer among them or not.
        heads: attention heads of the proposer, which no shape tells.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no MasQCLIP classifier.
    """
    weights = import_masqclip(state, source=source)
    clip = {f"visual.{name}": tensor for name, tensor in weights.visual.items()}
    proposer = mask2former_parts(state, heads=heads, source=source)
    return replace(proposer, tuned=weights.mask_class_tokens, clip=clip)


def import_masqclip(state: Mapping[str, Tensor], *, source: str) -> MasqclipWeights:
    """Splits a released state dict into frozen tower and tuned parameters; nothing is copied.

    Args:
        state: the file's tensors, with or without the prefix `masqclip.`; proposal weights beside
            them are left out.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no MasQCLIP classifier.
    """
    if any(name.startswith("masqclip.") for name in state):
        prefix = "masqclip."
        state = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
    if "mask_embeddings" not in state or "visual.class_embedding" not in state:
        raise CheckpointError(
            f"{source}: no MasQCLIP classifier in it (mask_embeddings and visual.* are missing); "
            "is it the file of the first stage?"
        )
    visual: dict[str, Tensor] = {}
    tuned = {"mask_position": state["mask_embeddings"]}
    for name, value in state.items():
        query = _QUERY.fullmatch(name)
        if query:
            tuned[f"query_projections.{query[1]}.{query[2]}"] = value
        elif name.startswith("visual."):
            visual[name.removeprefix("visual.")] = value
    return MasqclipWeights(visual, tuned)
