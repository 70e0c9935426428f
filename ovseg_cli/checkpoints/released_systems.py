"""The released layouts: how each is read, known again, and licensed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovseg_cli.checkpoints.fcclip import fcclip_parts
from ovseg_cli.checkpoints.freeseg import freeseg_parts
from ovseg_cli.checkpoints.mask2former import mask2former_parts
from ovseg_cli.checkpoints.maskclip import maskclip_parts
from ovseg_cli.checkpoints.masqclip import masqclip_parts
from ovseg_cli.checkpoints.origins import Licence
from ovseg_cli.checkpoints.ovseg import ovseg_parts
from ovseg_cli.checkpoints.released_parts import ReleasedParts

NON_COMMERCIAL = Licence("CC BY-NC 4.0", commercial=False)


@dataclass(frozen=True)
class ReleasedSystem:
    """A layout in which weights are released.

    Attributes:
        title: its name for people.
        parts: takes a file's tensors apart, see `mask2former_parts`.
        recipe: the shipped recipe that its weights go with.
        licence: of the released weights.
        signs: what some names of its tensors hold; one of them is enough.
    """

    title: str
    parts: Callable[..., ReleasedParts]
    recipe: str
    licence: Licence
    signs: tuple[str, ...]


SYSTEMS = {  # a file is of the first whose signs it has: later ones are parts of earlier ones
    "fcclip": ReleasedSystem(
        title="FC-CLIP",
        parts=fcclip_parts,
        recipe="fcclip",
        licence=Licence(
            "Apache-2.0", commercial=True, note="see NOTICE for a patent application on its method"
        ),
        signs=("backbone.clip_model.",),
    ),
    "masqclip": ReleasedSystem(
        title="MasQCLIP",
        parts=masqclip_parts,
        recipe="masqclip",
        licence=NON_COMMERCIAL,
        signs=("masqclip.", ".new_q_proj."),
    ),
    "maskclip": ReleasedSystem(
        title="MaskCLIP",
        parts=maskclip_parts,
        recipe="maskclip",
        licence=NON_COMMERCIAL,
        signs=("maskclip.", "_added_params."),
    ),
    "maft": ReleasedSystem(
        title="MAFT",
        parts=freeseg_parts,
        recipe="maft",
        licence=Licence(
            "no licence, all rights reserved",
            commercial=False,
            note="its authors published the file without saying what may be done with it",
        ),
        signs=("IPCLIP.", "sem_seg_head.interaction."),
    ),
    "ovseg": ReleasedSystem(
        title="OVSeg",
        parts=ovseg_parts,
        recipe="ovseg",
        licence=NON_COMMERCIAL,
        signs=("clip_adapter.", "visual.mask_embedding", "visual.transformer.resblocks."),
    ),
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
