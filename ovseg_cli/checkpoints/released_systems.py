"""The released layouts: how each is read, known again, and licensed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovseg_cli.checkpoints.mask2former import mask2former_parts
from ovseg_cli.checkpoints.origins import Licence
from ovseg_cli.checkpoints.released_parts import ReleasedParts


@dataclass(frozen=True)
class ReleasedSystem:
    """A layout in which weights are released.

    Attributes:
        title: its name for people.
        parts: takes a file's tensors apart; see `mask2former_parts`.
        recipe: the shipped recipe that its weights go with.
        licence: of the released weights.
        signs: what names of its tensors hold and those of layouts further down do not.
    """

    title: str
    parts: Callable[..., ReleasedParts]
    recipe: str
    licence: Licence
    signs: tuple[str, ...]


SYSTEMS = {  # what is known again first stands first
    "mask2former": ReleasedSystem(
        title="Mask2Former",
        parts=mask2former_parts,
        recipe="open_vocabulary",
        licence=Licence("MIT", commercial=True),
        signs=("transformer_cross_attention_layers.",),
    ),
}


def system_of(names: Iterable[str]) -> str | None:
    """The layout that names of tensors are of; None where they are of none.

    Args:
        names: all of a file's.
    """
    names = list(names)
    for system, released in SYSTEMS.items():
        if any(sign in name for sign in released.signs for name in names):
            return system
    return None
