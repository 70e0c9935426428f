"""A CLIP of a few thousand parameters, random and seeded, for tests."""

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
import torch


def tiny_clip(
    *,
    resolution: int = 32,
    patch: int = 8,
    width: int = 32,
    layers: int = 3,
    heads: int = 2,
    dim: int = 16,
    quick_gelu: bool = True,
    seed: int = 0,
) -> ClipEncoder:
    """All parameters are non-trivial: biases, norms and the class token too."""
    vision = {
        "layers": layers,
        "width": width,
        "head_width": width // heads,
        "patch_size": patch,
        "image_size": resolution,
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(dim, vision, text, quick_gelu=quick_gelu).eval()
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.data = noise * parameter.shape[-1] ** -0.5
            else:
                parameter.data += 0.2 * noise
    return ClipEncoder(model)
