"""The parameters of CLIP's image towers by what they do, so that some can be kept as they are.

MAFT (Jiao et al., NeurIPS 2023), table 4d, freezes one group after the other.
"""

import re
from collections.abc import Collection
from typing import Literal

from torch import nn

from ovseg_cli.errors import CheckpointError

Group = Literal["conv", "cls", "pos", "pre", "attention", "norm", "mlp", "proj"]
NAMES: dict[Group, str] = {  # of a vision transformer, and of a ResNet with attention pooling
    "conv": r"conv\d\.|bn\d\.|layer\d\.",
    "cls": r"class_embedding$",
    "pos": r"positional_embedding$|attnpool\.positional_embedding$",
    "pre": r"ln_pre\.",
    "attention": r"transformer\.resblocks\.\d+\.attn\.|attnpool\.[qkv]_proj\.",
    "norm": r"transformer\.resblocks\.\d+\.(ln|ls)_[12]\.|ln_post\.",
    "mlp": r"transformer\.resblocks\.\d+\.mlp\.",
    "proj": r"proj$|attnpool\.c_proj\.",
}


def group_of(name: str) -> Group:
    """The group of a parameter of a vision transformer or a ResNet.

    Args:
        name: the parameter's in open_clip's image tower.

    Raises:
        CheckpointError: a name of another kind of tower.
    """
    for group, pattern in NAMES.items():
        if re.match(pattern, name):
            return group
    raise CheckpointError(
        f"clip: the image tower's {name} is in no group of a vision transformer or a ResNet, so "
        "nothing says whether to tune it; choose a CLIP such as ViT-B-16-quickgelu"
    )


def freeze(visual: nn.Module, groups: Collection[Group]) -> None:
    """Leaves the parameters of some groups without gradient, and gives it to all the others.

    Args:
        visual: an image tower.
        groups: what stays as it is.

    Raises:
        CheckpointError: the tower is no vision transformer and no ResNet.
    """
    for name, parameter in visual.named_parameters():
        parameter.requires_grad_(group_of(name) not in groups)
