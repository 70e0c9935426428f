"""The pyramid that makes mask features of a backbone's levels, from the coarsest up.

Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, with group norm, as MaskFormer
has it (Cheng et al., NeurIPS 2021, section 4.1).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 32


def _convolution(inputs: int, outputs: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _normed(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, outputs, kernel, bias=False), nn.GroupNorm(GROUPS, outputs)
    )


class PixelDecoder(nn.Module):
    """Backbone features to mask features.

    Args:
        channels: channels of the backbone's features at strides 4, 8, 16 and 32.
        hidden_dim: channels inside, a multiple of 32.
        mask_dim: channels of the mask features.
    """

    def __init__(
        self, channels: Sequence[int], *, hidden_dim: int = 256, mask_dim: int = 256
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.coarsest = _normed(coarsest, hidden_dim, 3)
        self.laterals = nn.ModuleList(_normed(channel, hidden_dim, 1) for channel in finer)
        self.smooths = nn.ModuleList(_normed(hidden_dim, hidden_dim, 3) for _ in finer)
        self.mask_features = _convolution(hidden_dim, mask_dim, 3, bias=True)

    def forward(self, levels: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B D h w"]:
        """Mask features of the finest level's size.

        Args:
            levels: the backbone's maps, fine to coarse.
        """
        *finer, coarsest = levels
        features = F.relu(self.coarsest(coarsest))
        steps = zip(finer, self.laterals, self.smooths, strict=True)
        for level, lateral, smooth in reversed(list(steps)):
            upsampled = F.interpolate(features, size=level.shape[-2:], mode="nearest")
            features = F.relu(smooth(lateral(level) + upsampled))
        mask_features: Tensor = self.mask_features(features)
        return mask_features
