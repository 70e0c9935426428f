"""The transformer decoder that makes queries of a backbone's coarsest level, and their heads.

Carion et al., End-to-End Object Detection with Transformers, ECCV 2020, section 3.2, without an
encoder; the mask head is MaskFormer's (Cheng et al., NeurIPS 2021, section 3.2), the embedding head
OVSeg's (Liang et al., CVPR 2023, section 3.1).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..mask2former.positions import sine_positions


class DecodedQueries(NamedTuple):
    """What is made of the queries after each of L layers.

    Attributes:
        embeddings: (L, B, Q, D) in CLIP's joint space, of any length.
        masks: (L, B, Q, C) a mask is their inner product with the mask features.
    """

    embeddings: Float[Tensor, "L B Q D"]
    masks: Float[Tensor, "L B Q C"]


class QueryLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; norms after the residual sums."""

    def __init__(self, channels: int, *, heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, channels),
        )
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        query_positions: Float[Tensor, "Q C"],
        keys: Float[Tensor, "B S C"],
        values: Float[Tensor, "B S C"],
    ) -> Float[Tensor, "B Q C"]:
        placed = queries + query_positions
        attended, _ = self.self_attention(placed, placed, queries, need_weights=False)
        queries = self.self_norm(queries + self.dropout(attended))
        placed = queries + query_positions
        attended, _ = self.cross_attention(placed, keys, values, need_weights=False)
        queries = self.cross_norm(queries + self.dropout(attended))
        normed: Tensor = self.feedforward_norm(queries + self.dropout(self.feedforward(queries)))
        return normed


class QueryDecoder(nn.Module):
    """Learned queries read the coarsest level and become masks with embeddings.

    Args:
        channels: channels of the coarsest level.
        hidden_dim: channels of the queries.
        mask_dim: channels of the mask features.
        embedding_dim: of CLIP's joint space.
        embedding_hidden_dim: hidden channels of the embedding head.
        queries: masks an image.
        layers: decoder layers.
        heads: attention heads.
        feedforward_dim: hidden channels of the feed-forward networks.
        dropout: in the layers, 0 to 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        embedding_dim: int,
        embedding_hidden_dim: int = 1024,
        queries: int = 100,
        layers: int = 6,
        heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, hidden_dim, 1)
        self.query_positions = nn.Embedding(queries, hidden_dim)
        self.layers = nn.ModuleList(
            QueryLayer(hidden_dim, heads=heads, feedforward_dim=feedforward_dim, dropout=dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.mask_head = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, mask_dim),
        )
        self.embedding_head = nn.Sequential(
            nn.Linear(hidden_dim, embedding_hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(embedding_hidden_dim, embedding_dim),
        )
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, level: Float[Tensor, "B _ h w"], *, every_layer: bool = False
    ) -> DecodedQueries:
        """The queries after the last layer, or after each, the last one last.

        Args:
            level: the backbone's coarsest map.
            every_layer: give those of all layers, for deep supervision.
        """
        projected = self.projection(level)
        values = projected.flatten(2).transpose(1, 2)  # (B, S, C)
        size = (level.shape[-2], level.shape[-1])
        keys = values + sine_positions(size, values.shape[2], like=values)
        places = self.query_positions.weight
        queries, outputs = values.new_zeros(len(values), *places.shape), []
        for layer in self.layers:
            queries = layer(queries, places, keys, values)
            outputs.append(queries)
        normed = self.norm(torch.stack(outputs if every_layer else outputs[-1:]))
        return DecodedQueries(self.embedding_head(normed), self.mask_head(normed))
