"""Which of open_clip's architectures weights are of, by their shapes."""

from collections.abc import Mapping

import open_clip
import torch
from torch import Tensor

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError

PARTS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
PRETRAINED = {  # the towers that segmenters are released on, and open_clip's tag of each
    "ViT-L-14-336-quickgelu": "openai",
    "ViT-L-14-quickgelu": "openai",
    "ViT-B-16-quickgelu": "openai",
    "ViT-B-32-quickgelu": "openai",
    "convnext_large_d_320": "laion2b_s29b_b131k_ft_soup",
    "convnext_base_w_320": "laion_aesthetic_s13b_b82k_augreg",
    "RN50-quickgelu": "openai",
    "RN101-quickgelu": "openai",
    "RN50x4-quickgelu": "openai",
    "RN50x16-quickgelu": "openai",
    "RN50x64-quickgelu": "openai",
}


def weightless_clip(architecture: str) -> ClipEncoder:
    """A CLIP that has shapes and no values, on PyTorch's meta device.

    Args:
        architecture: open_clip's name.

    Raises:
        CheckpointError: open_clip has none of that name.
    """
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise CheckpointError(
            f"clip: open_clip has no architecture {architecture!r}; it lists them by "
            "open_clip.list_models()"
        )
    with torch.device("meta"):
        return ClipEncoder(open_clip.CLIP(**{key: config[key] for key in PARTS if key in config}))


def architecture_of(visual: Mapping[str, Tensor], *, first: str) -> str | None:
    """The architecture whose image tower has tensors of these names and shapes; None if none has.

    Args:
        visual: an image tower, named as open_clip's `visual` names it; more may be beside it.
        first: the one to try before all others.

    Raises:
        CheckpointError: open_clip has no architecture named `first`.
    """
    for architecture in (first, *PRETRAINED):
        own = weightless_clip(architecture).model.visual.state_dict()
        if all(name in visual and visual[name].shape == t.shape for name, t in own.items()):
            return architecture
    return None
