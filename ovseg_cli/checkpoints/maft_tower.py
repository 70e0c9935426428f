"""MAFT's released weights, CLIP's side of them, brought into this project's modules."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ovseg_cli.errors import CheckpointError

_TUNED = "IPCLIP."
_CLIP = "clip_adapter.clip_model."
_VISUAL = f"{_CLIP}visual."


class MaftTower(NamedTuple):
    """The parts of a released file that are CLIP's.

    Attributes:
        visual: the image tower, named as open_clip's `visual` names it: the fine-tuned one, or
            where the file has none, as FreeSeg's has not, that of the frozen CLIP.
        tuned: whether it is the fine-tuned one.
        clip: the frozen CLIP, named as open_clip names it; empty where the file leaves it out.
    """

    visual: dict[str, Tensor]
    tuned: bool
    clip: dict[str, Tensor]


def import_maft_tower(state: Mapping[str, Tensor], *, source: str) -> MaftTower:
    """The image tower of a released state dict; nothing is copied.

    Args:
        state: the tensors of a whole model. The proposer's are left out, and those of a third image
            tower (`T.*`), which the released code saves and never reads.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it holds no image tower.
    """
    tuned, frozen = _below(state, _TUNED), _below(state, _VISUAL)
    visual = tuned or frozen
    if "class_embedding" not in visual:
        raise CheckpointError(
            f"{source}: no image tower of MAFT in it ({_TUNED}* and {_VISUAL}* are missing); is it "
            "a file that MAFT's or FreeSeg's training saved?"
        )
    return MaftTower(visual, bool(tuned), _below(state, _CLIP))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = (name for name in state if name.startswith(prefix))
    return {name.removeprefix(prefix): state[name] for name in names}
