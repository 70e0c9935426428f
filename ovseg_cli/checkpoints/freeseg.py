"""MAFT's released weights, and those of its FreeSeg alone, brought into this project's modules."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ovseg_cli.checkpoints.found_sizes import backbone_options, decoder_options, found_sizes
from ovseg_cli.checkpoints.mask2former import mask2former_weights
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.errors import CheckpointError

_CLIP = "clip_adapter.clip_model."
_TUNED = "IPCLIP."
_NO_OBJECT = "clip_adapter.non_object_embedding"
_INTERACTION = "sem_seg_head.interaction."
_INTERACTION_PARTS = {
    "gamma": "scale",
    "layer_norm_q_1": "pixel_norm",
    "layer_norm_k_1": "word_norm",
    "attn.q_proj": "query",
    "attn.k_proj": "key",
    "attn.v_proj": "value",
    "attn.out_proj": "output",
}
_SIZES = {
    "embedding_hidden_dim": ("mask_decoder.class_head.0.weight", 0),
    "interaction_dim": ("interaction.query.weight", 0),
}
_UNTUNED = "there is no tuned tower in it: CLIP names the masks as it is"
_PROPOSER = ("backbone.", "sem_seg_head.")


class FreeSegWeights(NamedTuple):
    """The parts of a released file.

    Attributes:
        proposer: named as `FreeSeg` names it.
        clip: the frozen CLIP, named as open_clip names it; empty where the file leaves it out.
        tuned: MAFT's image tower, by the names of its artifact (`visual.*`); empty in a file of
            FreeSeg alone.
    """

    proposer: dict[str, Tensor]
    clip: dict[str, Tensor]
    tuned: dict[str, Tensor]


def freeseg_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The parts of a released file: FreeSeg, the frozen CLIP, and MAFT's tower where it is there.

    Args:
        state: the file's tensors.
        heads: attention heads, which no shape tells.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no FreeSeg.
    """
    proposer, clip, tuned = import_freeseg(state, source=source)
    sizes = {
        **backbone_options(proposer),
        **decoder_options(proposer, heads=heads),
        **found_sizes(proposer, _SIZES),
    }
    options = {"proposer": sizes, "mask_encoder": {"tuned": "maft" if tuned else "none"}}
    notes = () if tuned else (_UNTUNED,)
    return ReleasedParts(proposer, tuned=tuned, clip=clip, options=options, notes=notes)


def import_freeseg(state: Mapping[str, Tensor], *, source: str) -> FreeSegWeights:
    """Splits a released state dict into proposer, frozen CLIP and tuned tower; nothing is copied.

    The criterion's buffers are left out, and the second tower of MAFT's files, `T.*`, which nothing
    reads.

    Args:
        state: the file's tensors.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no FreeSeg.
    """
    missing = [name for name in (_NO_OBJECT, f"{_INTERACTION}gamma") if name not in state]
    if missing:
        raise CheckpointError(
            f"{source}: no FreeSeg in it ({', '.join(missing)} missing); is it a file that MAFT's "
            "or its FreeSeg's training saved?"
        )
    pixels_and_masks = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(_PROPOSER) and not name.startswith(_INTERACTION)
    }
    proposer = {
        name.replace(".class_head.embed.", ".class_head."): tensor
        for name, tensor in mask2former_weights(pixels_and_masks).items()
    }
    proposer |= {
        f"interaction.{_interaction_name(name)}": tensor
        for name, tensor in _without(_INTERACTION, state).items()
    }
    proposer["no_object.weight"] = state[_NO_OBJECT]
    tuned = {f"visual.{name}": tensor for name, tensor in _without(_TUNED, state).items()}
    return FreeSegWeights(proposer, _without(_CLIP, state), tuned)


def _without(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _interaction_name(released: str) -> str:
    for theirs, ours in _INTERACTION_PARTS.items():
        if released == theirs or released.startswith(f"{theirs}."):
            return ours + released.removeprefix(theirs)
    return released
