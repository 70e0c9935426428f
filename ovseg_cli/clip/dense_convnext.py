"""Dense features of open_clip's ConvNeXt towers, and masks pooled from them."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

SMALLEST_AREA = 1e-8  # as released: an empty mask pools to the zero vector


class ConvNextTower:
    """FC-CLIP's default: the stages' raw outputs, and the mean under a mask through CLIP's head.

    Args:
        visual: open_clip's tower around timm's ConvNeXt.
    """

    strides = (4, 8, 16, 32)
    unread = ("trunk.norm_pre.", "trunk.head.", "head.")  # parameters that no level depends on

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @staticmethod
    def fits(visual: nn.Module) -> bool:
        """Whether the tower is of this kind, pooled by a plain mean."""
        trunk = getattr(visual, "trunk", None)
        pooled = getattr(getattr(trunk, "head", None), "global_pool", None)
        return isinstance(trunk, ConvNeXt) and getattr(pooled, "pool_type", None) == "avg"

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four levels."""
        return tuple(info["num_chs"] for info in self.visual.trunk.feature_info)

    def levels(self, normalised: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """The outputs of the four stages."""
        trunk = self.visual.trunk
        features, found = trunk.stem(normalised), []
        for stage in trunk.stages:
            features = stage(features)
            found.append(features)
        return tuple(found)

    def pool(
        self, dense: Float[Tensor, "B C h w"], weights: Float[Tensor, "B N h w"]
    ) -> Float[Tensor, "B N D"]:
        """The weighted mean through norm and projection; of an empty mask, zero through them."""
        sums = torch.einsum("bchw,bnhw->bnc", dense, weights)
        means = sums / (weights.sum((2, 3))[..., None] + SMALLEST_AREA)
        cells = means.flatten(0, 1)[..., None, None]  # (B N, C, 1, 1): maps of one cell each
        embeddings: Tensor = self.visual.head(self.visual.trunk.forward_head(cells))
        return embeddings.unflatten(0, means.shape[:2])
