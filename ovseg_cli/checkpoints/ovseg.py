"""OVSeg's released weights, CLIP's side of them, brought into this project's modules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ovseg_cli.checkpoints.maskformer import import_maskformer, maskformer_options
from ovseg_cli.checkpoints.released_parts import ReleasedParts
from ovseg_cli.errors import CheckpointError

_CLIP = "clip_adapter.clip_model."
_TRAINER = "module."
_VISUAL = "visual."
_PROMPTS = "visual.mask_embedding"
_NO_OBJECT = "clip_adapter.non_object_embedding"


_SEGMENTER = "sem_seg_head."
_NO_PROPOSER = (
    "there is no proposer in it, its CLIP alone: train one with 'ovseg train-proposals', or name a "
    "ready one with --set proposer.name=sam"
)
_WITH_RESNET: dict[str, dict[str, Any]] = {
    "mask_encoder": {"threshold": 0.5},
    "framing": {"short_side": 512, "max_side": 2048},
}


class OvsegWeights(NamedTuple):
    """The parts of a released file that are not the segmenter's.

    Attributes:
        visual: the image tower, tuned or not, named as open_clip's `visual` names it.
        mask_prompts: the mask prompts, named as `MaskedCrops` names them; empty without any.
        text: the text tower and the temperature, named as open_clip names them; empty where the
            file leaves them out.
        no_object: (D,) the segmenter's learned void; None where the file leaves it out.
    """

    visual: dict[str, Tensor]
    mask_prompts: dict[str, Tensor]
    text: dict[str, Tensor]
    no_object: Tensor | None


def ovseg_parts(state: Mapping[str, Tensor], *, heads: int, source: str) -> ReleasedParts:
    """The parts of a released file: proposer, tuned CLIP and mask prompts, each where it is there.

    The threshold of masks and the size of images are those of the released configuration: with a
    ResNet others than with a Swin.

    Args:
        state: the file's tensors, of a whole model or of its CLIP alone.
        heads: attention heads, which no shape tells.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no CLIP, or a segmenter that is no MaskFormer.
    """
    weights = import_ovseg(state, source=source)
    clip = {f"visual.{name}": tensor for name, tensor in weights.visual.items()} | weights.text
    depth = len(next(iter(weights.mask_prompts.values()), ()))
    encoder = {"tuned": "mpt" if depth else "none", "prompts": depth}
    options: dict[str, dict[str, Any]] = {"mask_encoder": encoder}
    if not any(name.startswith(_SEGMENTER) for name in state):
        return ReleasedParts(
            {}, tuned=weights.mask_prompts, clip=clip, options=options, notes=(_NO_PROPOSER,)
        )
    proposer = import_maskformer(state, source=source)
    sizes = maskformer_options(proposer)
    resnet = str(sizes.get("backbone", "")).startswith("resnet")
    options = {"proposer": sizes}
    if resnet:
        options |= _WITH_RESNET
    options["mask_encoder"] = {**options.get("mask_encoder", {}), **encoder}
    return ReleasedParts(proposer, tuned=weights.mask_prompts, clip=clip, options=options)


def import_ovseg(state: Mapping[str, Tensor], *, source: str) -> OvsegWeights:
    """Splits a released state dict into its CLIP's parts; nothing is copied.

    Args:
        state: the tensors of a whole model, or of the CLIP that OVSeg's own trainer wrote
            (`module.visual.*`); the segmenter's are left out.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no CLIP.
    """
    prefix = _CLIP if any(name.startswith(_CLIP) for name in state) else _TRAINER
    clip = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if not clip:  # a CLIP's own names
        clip = dict(state)
    visual = {
        name.removeprefix(_VISUAL): value
        for name, value in clip.items()
        if name.startswith(_VISUAL) and name != _PROMPTS
    }
    if "class_embedding" not in visual:
        raise CheckpointError(
            f"{source}: no OVSeg in it ({_CLIP}visual.* is missing); is it a file that OVSeg's "
            "training saved?"
        )
    prompts = {"mask_prompts.prompts": clip[_PROMPTS]} if _PROMPTS in clip else {}
    text = {name: value for name, value in clip.items() if not name.startswith(_VISUAL)}
    no_object = state.get(_NO_OBJECT)
    return OvsegWeights(visual, prompts, text, None if no_object is None else no_object[0])
