"""Weights of backbones that were trained on ImageNet, for trainings to begin with."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ovseg_cli.checkpoints.array_pickles import read_arrays
from ovseg_cli.checkpoints.mask2former import resnet_weights
from ovseg_cli.checkpoints.swin import swin_weights
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers.swin import Swin

_TORCHVISION = "https://download.pytorch.org/models/"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
_FILES = {
    "resnet18": f"{_TORCHVISION}resnet18-f37072fd.pth",
    "resnet34": f"{_TORCHVISION}resnet34-b627a593.pth",
    "resnet50": f"{_TORCHVISION}resnet50-0676ba61.pth",
    "resnet101": f"{_TORCHVISION}resnet101-63fe2227.pth",
    "swin_tiny": f"{_SWIN}swin_tiny_patch4_window7_224.pth",
    "swin_small": f"{_SWIN}swin_small_patch4_window7_224.pth",
    "swin_base": f"{_SWIN}swin_base_patch4_window12_384_22k.pth",  # OVSeg's
    "swin_large": f"{_SWIN}swin_large_patch4_window12_384_22k.pth",
}


def load_backbone(backbone: nn.Module, weights: str, *, architecture: str) -> None:
    """Fills a backbone with ImageNet weights, their classifier left out.

    The norms on a Swin's stages, which no classifier has, stay as they are.

    Args:
        backbone: a `ResNet` with frozen batch norms, or a `Swin`.
        weights: `imagenet` for torchvision's or Swin's own file, else the path of such a file or of
            a ResNet of detectron2's (`.pkl`), such as R-103.pkl for DeepLab's ResNets.
        architecture: the backbone's name, such as `resnet50` or `swin_base`.

    Raises:
        CheckpointError: the file cannot be had or read, or is of another backbone.
    """
    tensors = _imagenet(architecture) if weights == "imagenet" else _file(Path(weights))
    if isinstance(backbone, Swin):
        own = backbone.state_dict().items()
        stage_norms = {n: t for n, t in own if n.startswith("layer") and n.split(".")[1] == "norm"}
        kept = {**stage_norms, **swin_weights(tensors)}
    else:
        kept = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
        }
    load_weights(backbone, kept, source=f"backbone weights {weights}")


def _imagenet(architecture: str) -> dict[str, Tensor]:
    if architecture not in _FILES:
        raise CheckpointError(
            f"{architecture}: there are no ImageNet weights to download; set "
            "train_proposals.backbone_weights=none to train it from scratch, or to a file, such as "
            "detectron2's R-103.pkl for resnet101c"
        )
    url = _FILES[architecture]
    try:
        found = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", weights_only=True, progress=False
        )
    except (OSError, RuntimeError) as error:  # torch.hub's own is a RuntimeError: a wrong hash
        raise CheckpointError(
            f"{url}: cannot be downloaded ({error}); download it elsewhere and set "
            "train_proposals.backbone_weights to the file, or to none"
        ) from error
    return _tensors(found, source=url)


def _file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pkl":
        return resnet_weights(read_arrays(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own
        raise CheckpointError(f"{path}: cannot be read as weights ({error})") from error
    return _tensors(found, source=str(path))


def _tensors(found: object, *, source: str) -> dict[str, Tensor]:
    """Of torchvision's layout, or of Swin's, under `model`."""
    tensors = found["model"] if isinstance(found, dict) and "model" in found else found
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise CheckpointError(f"{source}: is no dictionary of tensors as torchvision saves them")
    return tensors
