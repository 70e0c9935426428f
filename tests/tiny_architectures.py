"""Architectures of a few thousand parameters that open_clip is made to know, for tests."""

import json
from pathlib import Path
from typing import Any

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
import timm
import torch
from timm.models.convnext import _create_convnext
from torch import Tensor

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
CONVNEXT = "convnext_of_a_case"


def tiny_vit(
    folder: Path,
    *,
    input_resolution: int = 32,
    patch_size: int = 8,
    width: int = 32,
    layers: int = 2,
    heads: int = 2,
    output_dim: int = 16,
) -> str:
    """The name of a ViT; the sizes are called as the reference cases call them."""
    vision = {
        "layers": layers,
        "width": width,
        "head_width": width // heads,
        "patch_size": patch_size,
        "image_size": input_resolution,
    }
    return _known(folder, {"embed_dim": output_dim, "quick_gelu": True, "vision_cfg": vision})


def tiny_convnext_of(folder: Path, *, embed: int, convnext: dict[str, Any]) -> str:
    """The name of a ConvNeXt with the head of open_clip's ConvNeXt-L."""

    def made(pretrained: bool = False, **options: Any) -> Any:
        sizes = {**convnext, "conv_mlp": False, "ls_init_value": 1.0, **options}
        return _create_convnext("convnext_atto", pretrained=False, **sizes)

    timm.models._registry._model_entrypoints[CONVNEXT] = made
    vision = {
        "timm_model_name": CONVNEXT,
        "timm_pool": "",
        "timm_proj": "mlp",
        "image_size": 32,
    }
    return _known(folder, {"embed_dim": embed, "vision_cfg": vision})


def _known(folder: Path, config: dict[str, Any]) -> str:
    name = f"tiny-{abs(hash(json.dumps(config, sort_keys=True)))}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**config, "text_cfg": TEXT}), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


def random_clip(architecture: str, *, seed: int = 5) -> dict[str, Tensor]:
    """The state of a CLIP of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = ClipEncoder(open_clip.create_model(architecture)).model
        return {name: tensor.clone() for name, tensor in clip.state_dict().items()}
