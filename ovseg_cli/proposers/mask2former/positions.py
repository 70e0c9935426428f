"""Sine position embeddings in two dimensions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sine_positions(
    size: tuple[int, int], channels: int, *, like: Tensor, temperature: float = 10000.0
) -> Float[Tensor, "S C"]:
    """The positions of a map's pixels, row by row: half the channels for y, then half for x.

    Vaswani et al., 2017, section 3.5, on positions 1..n scaled to 2 pi (DETR), sine on even and
    cosine on odd channels.

    Args:
        size: (height, width) of the map.
        channels: channels, a multiple of four.
        like: a tensor of the device and floating type wanted.
        temperature: base of the wave lengths.
    """
    height, width = size
    wave = torch.arange(channels // 4, dtype=like.dtype, device=like.device) * (4 / channels)
    frequency = temperature**-wave

    def along(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
        angle = position[:, None] * (2 * math.pi / (length + 1e-6)) * frequency
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    y = along(height)[:, None].expand(-1, width, -1)
    x = along(width)[None].expand(height, -1, -1)
    return torch.cat([y, x], -1).flatten(0, 1)
