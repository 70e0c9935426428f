"""Dense features of CLIP's modified ResNets, and masks pooled from them by attention."""

from typing import Any

import torch
from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.vision_transformer import split_heads


class ResNetTower:
    """The outputs of the four layers, and CLIP's attention pooling restricted to a mask.

    Args:
        visual: open_clip's tower.
    """

    strides = (4, 8, 16, 32)
    unread = ("attnpool.",)  # parameters that no level depends on

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @staticmethod
    def fits(visual: nn.Module) -> bool:
        """Whether the tower is of this kind."""
        return isinstance(visual, ModifiedResNet)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four levels."""
        width = self.visual.layer1[-1].conv3.out_channels
        return (width, 2 * width, 4 * width, 8 * width)

    def levels(self, normalised: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """The outputs of the four layers."""
        visual = self.visual
        features, found = visual.stem(normalised), []
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
            found.append(features)
        return tuple(found)

    def pool(
        self, dense: Float[Tensor, "B C h w"], weights: Float[Tensor, "B N h w"]
    ) -> Float[Tensor, "B N D"]:
        """Attention of one query over the cells inside, as FC-CLIP releases it.

        The query is the mean of all cells, padding included, and the mean is no key, so that a full
        mask does not give CLIP's own embedding. All masks share query, keys and values: an empty
        one attends to nothing, and only the output's bias is left.
        """
        attention = self.visual.attnpool
        heads = attention.num_heads
        cells = dense.flatten(2).transpose(1, 2)  # (B, P, C)
        first, others = self._positions(dense)
        query = split_heads(attention.q_proj(cells.mean(1, keepdim=True) + first), heads)
        keys = split_heads(attention.k_proj(cells + others), heads)
        values = split_heads(attention.v_proj(cells + others), heads)
        logits = query @ keys.transpose(2, 3) / keys.shape[-1] ** 0.5  # (B, heads, 1, P)
        shares = _masked_softmax(logits, weights.flatten(2)[:, None])
        attended = (shares @ values).transpose(1, 2).flatten(2)  # (B, N, C)
        embeddings: Tensor = attention.c_proj(attended)
        return embeddings

    def _positions(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the query and of the cells, the latter resized bilinearly: (1, P, C)."""
        table = self.visual.attnpool.positional_embedding
        side = int((len(table) - 1) ** 0.5)
        grid = table[1:].T.unflatten(1, (side, side))[None]
        resized = F.interpolate(grid, dense.shape[-2:], mode="bilinear")
        return table[0], resized.flatten(2).transpose(1, 2)


def _masked_softmax(logits: Tensor, weights: Tensor) -> Tensor:
    """Softmax over the last axis of logits that count by their weights; zeros where none do."""
    weighted = torch.softmax(logits + weights.log(), dim=-1)
    return torch.where(weights.any(-1, keepdim=True), weighted, 0.0)
