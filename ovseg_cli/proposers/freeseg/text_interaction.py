"""Pixels that read the words before masks are made of them.

Qin et al., FreeSeg, CVPR 2023, section 3.4, as MAFT (Jiao et al., NeurIPS 2023) is released with.
Kept as released, for its weights: the residual sum starts from the normed pixels, and the words are
normed once more for each further map.
"""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..mask2former.pixel_decoder import LEVELS, DecodedPixels

MAPS = LEVELS + 1  # the levels, coarse to fine, then the mask features
INITIAL_SCALE = 0.1


class WordMemory(NamedTuple):
    """What the pixels read of a vocabulary, the same for all images.

    Attributes:
        keys: of each map in turn.
        values: of each map in turn.
    """

    keys: tuple[Float[Tensor, "A T _"], ...]
    values: tuple[Float[Tensor, "A T _"], ...]


class TextInteraction(nn.Module):
    """Cross-attention from the pixel decoder's maps to words, the same weights for all maps.

    Args:
        hidden_dim: channels of the maps.
        embedding_dim: of the words.
        heads: attention heads.
        inner_dim: channels of all heads together.
        dropout: of the attention's weights, in training.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        embedding_dim: int,
        heads: int = 8,
        inner_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.pixel_norm = nn.LayerNorm(hidden_dim)
        self.word_norm = nn.LayerNorm(embedding_dim)
        self.query = _linear(hidden_dim, inner_dim)
        self.key = _linear(embedding_dim, inner_dim)
        self.value = _linear(embedding_dim, inner_dim)
        self.output = _linear(inner_dim, hidden_dim)
        self.scale = nn.Parameter(self.pixel_norm.weight.new_full((hidden_dim,), INITIAL_SCALE))

    def memory(self, words: Float[Tensor, "T D"]) -> WordMemory:
        """Keys and values of words, for `forward`.

        Args:
            words: (T, D) of unit length, no object among them.
        """
        keys, values = [], []
        for _ in range(MAPS):
            words = self.word_norm(words)
            keys.append(self._heads_apart(self.key(words)))
            values.append(self._heads_apart(self.value(words)))
        return WordMemory(tuple(keys), tuple(values))

    def forward(self, pixels: DecodedPixels, memory: WordMemory) -> DecodedPixels:
        """The pixel decoder's maps, after reading.

        Args:
            pixels: as many channels in the mask features as in the levels.
            memory: of the words, see `memory`.
        """
        maps = (*pixels.levels, pixels.mask_features)
        *levels, mask_features = (
            self._read(features, keys, values)
            for features, keys, values in zip(maps, memory.keys, memory.values, strict=True)
        )
        return DecodedPixels(mask_features, tuple(levels))

    def _read(self, features: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        normed = self.pixel_norm(features.flatten(2).transpose(1, 2))
        batch = len(normed)
        attended = F.scaled_dot_product_attention(
            self._heads_apart(self.query(normed)),
            keys.expand(batch, -1, -1, -1),
            values.expand(batch, -1, -1, -1),
            dropout_p=self.dropout if self.training else 0.0,
        )
        read = self.output(attended.transpose(1, 2).flatten(2))
        return (normed + self.scale * read).transpose(1, 2).reshape(features.shape)

    def _heads_apart(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
