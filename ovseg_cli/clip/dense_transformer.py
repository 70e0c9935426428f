"""Dense features of plain vision transformers: their patches at any input size."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.vision_transformer import is_plain

SMALLEST_AREA = 1e-8


class TransformerTower:
    """One level: the patches as the last layer leaves them; a mask is the mean of its own.

    Args:
        visual: open_clip's vision transformer.
    """

    unread = ("ln_post.", "proj")  # parameters that no level depends on

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @staticmethod
    def fits(visual: nn.Module) -> bool:
        """Whether the tower is a square vision transformer with a class token and plain blocks."""
        return is_plain(visual)

    @property
    def strides(self) -> tuple[int, ...]:
        """The side of a patch in pixels."""
        return (self.visual.patch_size[0],)

    @property
    def channels(self) -> tuple[int, ...]:
        """The width of the tower."""
        return (self.visual.ln_post.weight.shape[0],)

    def levels(self, normalised: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C h w"], ...]:
        """The last layer's patches, the class token among those that they attend to."""
        visual = self.visual
        patches = visual.conv1(normalised)  # (B, C, h, w)
        grid = patches.shape[-2:]
        start = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([start, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = visual.ln_pre(tokens + self._positions(grid).to(tokens.dtype))
        tokens = visual.transformer(tokens)[:, 1:]
        return (tokens.transpose(1, 2).unflatten(2, grid),)

    def pool(
        self, dense: Float[Tensor, "B C h w"], weights: Float[Tensor, "B N h w"]
    ) -> Float[Tensor, "B N D"]:
        """The weighted mean of the patches in the joint space; zero for an empty mask."""
        tokens = self.visual.ln_post(dense.flatten(2).transpose(1, 2))
        sums = weights.flatten(2) @ tokens  # the projection is linear: after the mean
        embeddings: Tensor = sums / (weights.sum((2, 3))[..., None] + SMALLEST_AREA)
        return embeddings @ self.visual.proj

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The class token's position and the patches', those resized bicubically: (L, C)."""
        table = self.visual.positional_embedding
        native = self.visual.grid_size
        if tuple(grid) == tuple(native):
            return table
        square = table[1:].T.unflatten(1, native)[None]
        resized = F.interpolate(square, tuple(grid), mode="bicubic")
        return torch.cat([table[:1], resized[0].flatten(1).T])
