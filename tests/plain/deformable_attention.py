"""Deformable attention as the paper's figure draws it: a `grid_sample` a level, then one sum."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_cli.proposers.mask2former.deformable_attention import DeformableAttention, pixel_centres


def sampled_sums(
    value: Tensor, locations: Tensor, attention: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Value (B, S, A, C), locations (B, S, A, L, P, 2): shares x, y; attention (B, S, A, L, P)."""
    batch, queries, heads, levels, points, _ = locations.shape
    samples = []
    maps = value.split([height * width for height, width in sizes], dim=1)
    for index, (level, (height, width)) in enumerate(zip(maps, sizes, strict=True)):
        image = level.flatten(2).transpose(1, 2).reshape(batch * heads, -1, height, width)
        grid = (2 * locations[:, :, :, index] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, grid, mode="bilinear", align_corners=False))
    weights = attention.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    sums = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return sums.view(batch, -1, queries).transpose(1, 2).contiguous()


def attended(
    module: DeformableAttention, queries: Tensor, features: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """What `module` computes, from the same weights."""
    batch, count, _ = queries.shape
    shape = (batch, count, module.heads, module.levels, module.points)
    value = module.value(features).view(batch, count, module.heads, -1)
    offsets = module.offsets(queries).view(*shape, 2)
    attention = module.attention(queries).view(*shape[:3], -1).softmax(-1).view(shape)
    scale = torch.tensor([(width, height) for height, width in sizes], dtype=queries.dtype)
    own = torch.stack(pixel_centres(sizes, dtype=queries.dtype), -1)
    locations = own[:, None, None, None] + offsets / scale[:, None]
    return module.output(sampled_sums(value, locations, attention, sizes))
