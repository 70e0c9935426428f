"""FC-CLIP's released weights, brought into this project's modules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ovseg_cli.checkpoints.found_sizes import decoder_options, found_sizes
from ovseg_cli.checkpoints.mask2former import mask2former_weights
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.errors import CheckpointError

_CLIP = "backbone.clip_model."
_VOID = "void_embedding.weight"
_MASK_DIM = {"mask_dim": ("pixel_decoder.mask_features.weight", 0)}
_RESNET = "visual.attnpool.c_proj.weight"
_HEAD = "sem_seg_head.predictor.class_embed.layers.0.weight"


class FcclipWeights(NamedTuple):
    """The two parts of a released file.

    Attributes:
        clip: the frozen CLIP, named as open_clip names it.
        proposer: what was trained, named as `ClipMask2Former` names it.
    """

    clip: dict[str, Tensor]
    proposer: dict[str, Tensor]


def fcclip_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The parts of a released file: the frozen CLIP, both towers, and what stands on it.

    With CLIP's ResNets the ensemble is asked on valid masks alone, as released.

    Args:
        state: the file's tensors.
        heads: attention heads, which no shape tells.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no FC-CLIP.
    """
    clip, proposer = import_fcclip(state, source=source)
    sizes = decoder_options(proposer, heads=heads) | found_sizes(proposer, _MASK_DIM)
    ensemble = {"ensemble_on_valid": True} if _RESNET in clip else {}
    options: dict[str, dict[str, Any]] = {"proposer": sizes, "classification": ensemble}
    return ReleasedParts(proposer, clip=clip, options=options)


def import_fcclip(state: Mapping[str, Tensor], *, source: str) -> FcclipWeights:
    """Splits a released state dict into frozen CLIP and trained parameters; nothing is copied.

    The criterion's buffers are left out. The text tower is in the released files, and may be
    missing where the texts are given.

    Args:
        state: the file's tensors.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no FC-CLIP.
    """
    clip = {name.removeprefix(_CLIP): t for name, t in state.items() if name.startswith(_CLIP)}
    missing = [name for name in (_VOID, _HEAD) if name not in state]
    if not any(name.startswith("visual.") for name in clip):
        missing.insert(0, f"{_CLIP}visual.*")
    if missing:
        raise CheckpointError(
            f"{source}: no FC-CLIP in it ({', '.join(missing)} missing); is it a file that "
            "FC-CLIP's training saved?"
        )
    trained = {name: t for name, t in state.items() if not name.startswith(_CLIP)}
    return FcclipWeights(clip, {**mask2former_weights(trained), _VOID: state[_VOID]})
