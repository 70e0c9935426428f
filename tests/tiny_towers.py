"""CLIPs with tiny convolutional image towers, random and seeded, for tests."""

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
import torch
from timm.models.convnext import ConvNeXt
from torch import nn

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}


def tiny_convnext(*, resolution: int = 64, dim: int = 16, seed: int = 0) -> ClipEncoder:
    """A ConvNeXt with the head of open_clip's ConvNeXt-B."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = {
            "timm_model_name": "convnext_atto",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": resolution,
        }
        model = open_clip.CLIP(dim, vision, TEXT)
        model.visual.trunk = ConvNeXt(num_classes=0, depths=(1, 1, 2, 1), dims=(8, 12, 16, 24))
        model.visual.head.proj = nn.Linear(24, dim, bias=False)
        return ClipEncoder(_random(model))


def tiny_resnet(*, resolution: int = 64, dim: int = 16, seed: int = 0) -> ClipEncoder:
    """CLIP's modified ResNet with attention pooling of four heads."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = {
            "layers": (1, 1, 1, 1),
            "width": 4,
            "head_width": 32,
            "image_size": resolution,
        }
        return ClipEncoder(_random(open_clip.CLIP(dim, vision, TEXT)))


def _random(model: nn.Module) -> nn.Module:
    """Biases, norms, layer scales and running statistics that are not the ones of the start."""
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim > 1:
            parameter.data = noise * (2 / parameter[0].numel()) ** 0.5
        else:
            parameter.data = (parameter.data + 0.2 * noise).clamp(-2, 2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape))
    return model.eval()
