"""The multi-scale deformable pixel decoder.

Cheng et al., Masked-attention Mask Transformer, CVPR 2022, section 3.2.2, with the deformable
encoder of Zhu et al., 2021, at strides 32, 16 and 8 and one top-down step to stride 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .deformable_attention import DeformableAttention, SamplingGrid, sampling_grid
from .positions import sine_positions

GROUPS = 32
LEVELS = 3


class DecodedPixels(NamedTuple):
    """What the mask decoder reads.

    Attributes:
        mask_features: (B, D, H/4, W/4) a mask is a query's inner product with these.
        levels: maps (B, C, h, w) at strides 32, 16 and 8.
    """

    mask_features: Float[Tensor, "B D h w"]
    levels: tuple[Float[Tensor, "B C _ _"], ...]


def _convolution(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    return linear


class DeformableLayer(nn.Module):
    """Deformable attention, then a feed-forward network; norms after the residual sums."""

    def __init__(
        self, channels: int, *, heads: int, points: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, levels=LEVELS, heads=heads, points=points)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            _linear(channels, feedforward_dim),
            nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(dropout)),
            _linear(feedforward_dim, channels),
        )
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        features: Float[Tensor, "B S C"],
        positions: Float[Tensor, "S C"],
        grid: SamplingGrid,
    ) -> Float[Tensor, "B S C"]:
        attended = self.attention(features + positions, features, grid)
        features = self.attention_norm(features + self.dropout(attended))
        inner = self.dropout(self.feedforward(features))
        normed: Tensor = self.feedforward_norm(features + inner)
        return normed


class PixelDecoder(nn.Module):
    """Backbone features to mask features; float32 even under autocast.

    Args:
        channels: channels of the backbone's features at strides 4, 8, 16 and 32.
        hidden_dim: channels inside, a multiple of 32.
        mask_dim: channels of the mask features.
        layers: deformable layers.
        heads: attention heads.
        points: sampling points a head and level.
        feedforward_dim: hidden channels of the feed-forward networks.
        dropout: in the deformable layers while training, 0 to 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.projections = nn.ModuleList(
            nn.Sequential(_convolution(channel, hidden_dim, 1), _norm(hidden_dim))
            for channel in reversed(channels[1:])
        )
        self.level_embeddings = nn.Parameter(torch.randn(LEVELS, hidden_dim))
        self.layers = nn.ModuleList(
            DeformableLayer(
                hidden_dim,
                heads=heads,
                points=points,
                feedforward_dim=feedforward_dim,
                dropout=dropout,
            )
            for _ in range(layers)
        )
        self.lateral = nn.Sequential(
            _convolution(channels[0], hidden_dim, 1, bias=False), _norm(hidden_dim)
        )
        self.smooth = nn.Sequential(
            _convolution(hidden_dim, hidden_dim, 3, bias=False),
            _norm(hidden_dim),
            nn.ReLU(inplace=True),
        )
        self.mask_features = _convolution(hidden_dim, mask_dim, 1)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> DecodedPixels:
        """Mask features and three levels, from the backbone's maps at strides 4, 8, 16 and 32."""
        with torch.autocast(features[0].device.type, enabled=False):
            finest, *coarser = (level.float() for level in features)
            levels = self._encoded(coarser[::-1])
            upsampled = F.interpolate(
                levels[-1], size=finest.shape[-2:], mode="bilinear", align_corners=False
            )
            smooth = self.smooth(self.lateral(finest) + upsampled)
            return DecodedPixels(self.mask_features(smooth), tuple(levels))

    def _encoded(self, levels: Sequence[Tensor]) -> list[Tensor]:
        maps = [project(level) for project, level in zip(self.projections, levels, strict=True)]
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        tokens = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)
        tokens = tokens.contiguous()
        positions = torch.cat(
            [
                sine_positions(size, tokens.shape[-1], like=tokens) + embedding
                for size, embedding in zip(sizes, self.level_embeddings, strict=True)
            ]
        )
        grid = sampling_grid(sizes, self.heads, self.points, like=tokens)
        for layer in self.layers:
            tokens = layer(tokens, positions, grid)
        split = torch.split(tokens, [height * width for height, width in sizes], dim=1)
        return [
            level.transpose(1, 2).reshape(len(level), -1, *size)
            for level, size in zip(split, sizes, strict=True)
        ]
