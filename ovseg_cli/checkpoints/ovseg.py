"""OVSeg's released weights, CLIP's side of them, brought into this project's modules."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ovseg_cli.errors import CheckpointError

_CLIP = "clip_adapter.clip_model."
_TRAINER = "module."
_VISUAL = "visual."
_PROMPTS = "visual.mask_embedding"
_NO_OBJECT = "clip_adapter.non_object_embedding"


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
