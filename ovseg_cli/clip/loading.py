"""A CLIP from open_clip's zoo, from a file, or from a run's artifact."""

from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import SMALL_CLIPS
from ovseg_cli.errors import CheckpointError
from ovseg_cli.recipe import build


def load_open_clip(
    *, architecture: str = "ViT-L-14-336-quickgelu", pretrained: str | None = "openai"
) -> ClipEncoder:
    """A published CLIP, fetched by open_clip where it is not in its cache.

    Args:
        architecture: open_clip's name; OpenAI's weights need one that ends in `-quickgelu`.
        pretrained: open_clip's tag, or the path of a weights file; None for random weights.

    Raises:
        CheckpointError: no such architecture or tag, the wrong activation for the weights, or
            weights that cannot be fetched or read.
    """
    _check_names(architecture, pretrained)
    try:
        model = open_clip.create_model(architecture, pretrained=pretrained)
    except Exception as error:  # open_clip and its download clients raise their own kinds
        raise CheckpointError(
            f"clip: the weights {pretrained!r} of {architecture} cannot be loaded "
            f"({str(error).splitlines()[0][:200]}); without a connection, give the path of a "
            "weights file as clip.pretrained"
        ) from error
    mean, std = model.visual.image_mean, model.visual.image_std
    return ClipEncoder(model.eval(), mean=tuple(mean), std=tuple(std))


def _check_names(name: str, pretrained: str | None) -> None:
    if open_clip.get_model_config(name) is None:
        raise CheckpointError(
            f"clip: open_clip has no architecture {name!r}; it lists them by "
            "open_clip.list_models()"
        )
    tag = open_clip.pretrained.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if tag.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise CheckpointError(
            f"clip: the weights {pretrained!r} were trained with QuickGELU; "
            f"use the architecture {name}-quickgelu"
        )


def clip_from_artifact(
    tensors: Mapping[str, Tensor], model: Mapping[str, Any], *, source: str = "clip/base"
) -> ClipEncoder:
    """The CLIP that `train-clip` wrote, or that was in an imported file.

    Args:
        tensors: the model's state dict, in any precision.
        model: the JSON beside it: `{"architecture": "small", "options": {...}}`, see `SMALL_CLIPS`;
            or `{"architecture": "open_clip", "options": {"architecture": ...}}`.
        source: the artifact's name, for messages.

    Raises:
        CheckpointError: another kind of artifact, or tensors that do not fit it.
    """
    if model.get("architecture") == "open_clip":
        clip = build("clip", {**model["options"], "pretrained": None}, load_open_clip)
        load_weights(clip.model, tensors, source=source)
        return clip
    if model.get("architecture") not in SMALL_CLIPS:
        raise CheckpointError(
            f"{source}: {model.get('architecture')!r} is no architecture that train-clip writes; "
            "make it again with `ovseg train-clip`"
        )
    built = build("clip", dict(model["options"]), SMALL_CLIPS[model["architecture"]])
    load_weights(built, tensors, source=source)
    return ClipEncoder(built.eval())


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Puts weights into a module, every one of them and no other.

    Args:
        module: takes the weights in its own precision.
        tensors: named as its state dict names them.
        source: where they come from, for messages.

    Raises:
        CheckpointError: names or shapes that do not fit.
    """
    try:
        with torch.no_grad():
            module.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{source}: weights of another model ({detail})") from error
