"""What a released file is made of, by our names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ReleasedParts:
    """The parts of a released file, whose tensors are the file's own.

    Attributes:
        proposer: named as the recipe's proposer names them; empty in a file without one.
        tuned: named as the recipe's mask encoder names what was tuned; empty where nothing was.
        clip: a CLIP, named as open_clip names it, or its image tower alone (`visual.*`); empty in a
            file without one.
        options: what the recipe's sections have to say of these weights, by section.
        notes: what somebody who imports them should know, a sentence each.
    """

    proposer: Mapping[str, Tensor]
    tuned: Mapping[str, Tensor] = field(default_factory=dict)
    clip: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
