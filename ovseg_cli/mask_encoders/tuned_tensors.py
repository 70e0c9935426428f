"""What tuning adds to the frozen CLIP of a mask encoder: its tensors out, and in again."""

from collections.abc import Mapping

from torch import Tensor, nn

from ovseg_cli.errors import CheckpointError

FROZEN = "clip."


def tensors_beside_clip(encoder: nn.Module) -> dict[str, Tensor]:
    """The state of a mask encoder without that of its CLIP, by name.

    Args:
        encoder: holds the CLIP as `clip`.
    """
    state = encoder.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(FROZEN)}


def load_beside_clip(encoder: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Gives a mask encoder what `tensors_beside_clip` took, in any precision.

    Args:
        encoder: holds the CLIP as `clip`, which stays as it is.
        tensors: by name; every one and no other.
        source: where they come from, for messages.

    Raises:
        CheckpointError: names or shapes that do not fit this CLIP and the encoder's options.
    """
    own = {name: value.shape for name, value in tensors_beside_clip(encoder).items()}
    found = {name: value.shape for name, value in tensors.items()}
    if own != found:
        differ = sorted(set(own.items()) ^ set(found.items()))[0][0]
        raise CheckpointError(
            f"{source}: tuned for another CLIP or with other options ({differ} does not fit); "
            "tune this one with `ovseg tune-clip`"
        )
    encoder.load_state_dict(dict(tensors), strict=False)
