"""MaskCLIP's released second-stage weights, brought into this project's modules."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ovseg_cli.checkpoints.mask2former import mask2former_parts
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.errors import CheckpointError

_ATTENTION = re.compile(
    r"visual\.transformer\.resblocks\.(\d+)\.attn\."
    r"(q_prime_norm|k_prime_proj_weight)_added_params\.(weight|bias)"
)
_CONVOLUTION = re.compile(r"visual\.transformer\.(conv1|conv3)_added_params\.(\d+)\.(weight|bias)")
_PARTS = {
    "q_prime_norm": "relations.{}.norm.{}",
    "k_prime_proj_weight": "relations.{}.keys.{}",
    "conv1": "relations.{}.patches.{}",
    "conv3": "refinements.{}.pixels.{}",
}


class MaskclipWeights(NamedTuple):
    """The parts of a released file.

    Attributes:
        visual: the frozen image tower, named as open_clip's `visual` names it.
        relative_mask_attention: what was tuned, named as `RelativeMaskAttention` names it.
        layers: those with relative mask attention, from 0.
    """

    visual: dict[str, Tensor]
    relative_mask_attention: dict[str, Tensor]
    layers: tuple[int, ...]


def maskclip_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The parts of a released file: proposer, CLIP's frozen image tower, and what was tuned.

    Args:
        state: the file's tensors, those of the proposer among them or not.
        heads: attention heads of the proposer, which no shape tells.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no MaskCLIP classifier.
    """
    weights = import_maskclip(state, source=source)
    clip = {f"visual.{name}": tensor for name, tensor in weights.visual.items()}
    tuned = weights.relative_mask_attention
    refines = any(name.startswith("refinements.") for name in tuned)
    encoder = {"layers": list(weights.layers), "refine": refines}
    proposer = mask2former_parts(state, heads=heads, source=source)
    options = {**proposer.options, "mask_encoder": encoder}
    return replace(proposer, tuned=tuned, clip=clip, options=options)


def import_maskclip(state: Mapping[str, Tensor], *, source: str) -> MaskclipWeights:
    """Splits a released state dict into frozen tower and tuned parameters; nothing is copied.

    The norms and keys are named by their layer, the convolutions by a number: the first belongs to
    the first layer that has a norm, and so on. There are always four of them; a tower with fewer
    such layers never reads the rest, which are left out.

    Args:
        state: the file's tensors, with or without the prefix `maskclip.`; proposal weights beside
            them are left out.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no MaskCLIP classifier.
    """
    if any(name.startswith("maskclip.") for name in state):
        prefix = "maskclip."
        state = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
    layers = sorted({int(found[1]) for name in state if (found := _ATTENTION.fullmatch(name))})
    if not layers or "visual.class_embedding" not in state:
        raise CheckpointError(
            f"{source}: no MaskCLIP classifier in it (visual.* with added_params is missing); "
            "is it the file of the first stage?"
        )
    visual: dict[str, Tensor] = {}
    tuned: dict[str, Tensor] = {}
    for name, value in state.items():
        if attention := _ATTENTION.fullmatch(name):
            tuned[_PARTS[attention[2]].format(attention[1], attention[3])] = value
        elif convolution := _CONVOLUTION.fullmatch(name):
            if int(convolution[2]) < len(layers):
                layer = layers[int(convolution[2])]
                tuned[_PARTS[convolution[1]].format(layer, convolution[3])] = _matrix(value)
        elif name.startswith("visual."):
            visual[name.removeprefix("visual.")] = value
    return MaskclipWeights(visual, tuned, tuple(layers))


def _matrix(value: Tensor) -> Tensor:
    """A convolution over one patch, or over one pixel, as the matrix that it is."""
    return value.flatten(1) if value.ndim > 1 else value
