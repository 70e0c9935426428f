"""The masked-attention decoder: learned queries become masks.

Cheng et al., Masked-attention Mask Transformer, CVPR 2022, section 3.2. A layer's attention mask is
the previous prediction at the layer's level: the mask features are brought to each level's size
once, which gives the same logits as predicting at stride 4 and resizing (both are linear) at a
fraction of the work. The full-size masks of the intermediate layers are computed for training only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .clip_class_head import ClipClassHead
from .pixel_decoder import LEVELS, DecodedPixels
from .positions import sine_positions


class MaskPredictions(NamedTuple):
    """One prediction of every query.

    Attributes:
        classes: (B, Q, K+1) class logits, the last is no object; from a class head in CLIP's space
            (B, Q, D) embeddings.
        mask_logits: (B, Q, H/4, W/4) above 0 is inside.
    """

    classes: Float[Tensor, "B Q _"]
    mask_logits: Float[Tensor, "B Q h w"]


class Attention(nn.Module):
    """Multi-head attention by the fused kernel; parameters as in `nn.MultiheadAttention`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        keys: Float[Tensor, "B S C"],
        values: Float[Tensor, "B S C"],
        allowed: Bool[Tensor, "B Q S"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            self._heads_apart(F.linear(tokens, weight, bias))
            for tokens, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _heads_apart(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; norms after the residual sums."""

    def __init__(self, channels: int, *, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attention = Attention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward_dim),
            nn.ReLU(inplace=True),
            nn.Linear(feedforward_dim, channels),
        )
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        query_positions: Float[Tensor, "Q C"],
        level: Float[Tensor, "B S C"],
        level_positions: Float[Tensor, "S C"],
        allowed: Bool[Tensor, "B Q S"],
    ) -> Float[Tensor, "B Q C"]:
        attended = self.cross_attention(
            queries + query_positions, level + level_positions, level, allowed
        )
        queries = self.cross_norm(queries + attended)
        placed = queries + query_positions
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        normed: Tensor = self.feedforward_norm(queries + self.feedforward(queries))
        return normed


class MaskDecoder(nn.Module):
    """Learned queries read the levels in turn and become masks with a class.

    Args:
        hidden_dim: channels of queries and levels.
        mask_dim: channels of the mask features.
        queries: masks an image.
        classes: classes besides no object; one is an object score.
        layers: decoder layers.
        heads: attention heads.
        feedforward_dim: hidden channels of the feed-forward networks.
        class_head: embeds masks in CLIP's space, instead of `classes`: queries alone, or a
            `ClipClassHead` with what is inside the masks.
    """

    class_head: nn.Module

    def __init__(
        self,
        *,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        queries: int = 100,
        classes: int = 1,
        layers: int = 9,
        heads: int = 8,
        feedforward_dim: int = 2048,
        class_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.query_features = nn.Embedding(queries, hidden_dim)
        self.query_positions = nn.Embedding(queries, hidden_dim)
        self.level_embeddings = nn.Embedding(LEVELS, hidden_dim)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, heads=heads, feedforward_dim=feedforward_dim)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = class_head or nn.Linear(hidden_dim, classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, mask_dim),
        )
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if parameter.ndim > 1 and "in_proj" not in name:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, pixels: DecodedPixels, *, every_layer: bool = False) -> list[MaskPredictions]:
        """The final prediction, or those of the queries themselves and after each layer.

        Args:
            pixels: the pixel decoder's maps.
            every_layer: give all predictions, the final one last, for deep supervision.
        """
        levels = self._levels(pixels)
        guides = [self._guide(pixels.mask_features, level) for level in pixels.levels]
        batch = pixels.mask_features.shape[0]
        queries = self.query_features.weight.expand(batch, -1, -1)
        places = self.query_positions.weight
        predictions = []
        for index, layer in enumerate(self.layers):
            normed = self.norm(queries)
            embeddings = self.mask_head(normed)
            if every_layer:
                predictions.append(self._prediction(normed, embeddings, pixels.mask_features))
            allowed = _allowed(embeddings, guides[index % LEVELS])
            queries = layer(queries, places, *levels[index % LEVELS], allowed)
        normed = self.norm(queries)
        final = self._prediction(normed, self.mask_head(normed), pixels.mask_features)
        return [*predictions, final]

    def _levels(self, pixels: DecodedPixels) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                level.flatten(2).transpose(1, 2) + embedding,
                sine_positions((level.shape[2], level.shape[3]), level.shape[1], like=level),
            )
            for level, embedding in zip(pixels.levels, self.level_embeddings.weight, strict=True)
        ]

    @staticmethod
    def _guide(mask_features: Tensor, level: Tensor) -> Tensor:
        size = level.shape[-2:]
        features = mask_features.detach()
        return F.interpolate(features, size=size, mode="bilinear", align_corners=False).flatten(2)

    def _prediction(
        self, normed: Tensor, embeddings: Tensor, mask_features: Tensor
    ) -> MaskPredictions:
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, mask_features)
        if isinstance(self.class_head, ClipClassHead):
            return MaskPredictions(self.class_head(normed, masks, mask_features), masks)
        return MaskPredictions(self.class_head(normed), masks)


@torch.no_grad()
def _allowed(
    embeddings: Float[Tensor, "B Q D"], guide: Float[Tensor, "B D S"]
) -> Bool[Tensor, "B Q S"]:
    inside = embeddings @ guide >= 0
    return inside | ~inside.any(-1, keepdim=True)  # an empty mask attends everywhere
