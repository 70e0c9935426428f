"""CLIP's image towers as backbones: feature maps of any input size, and masks pooled from them.

FC-CLIP (Yu et al., NeurIPS 2023), section 3.3: the features of a frozen convolutional CLIP, from
which the mask pooling below makes embeddings in CLIP's joint space.
"""

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError
from ovseg_cli.structures import EncodedImage, FramedImage

SMALLEST_AREA = 1e-8  # as released: an empty mask pools to the zero vector


class DenseClip(nn.Module):
    """A convolutional image tower: four feature maps, and mask pooling of the last one.

    Args:
        clip: with a ConvNeXt or a ResNet image tower.
        trainable: False shares the CLIP's own tower, frozen and in evaluation mode always; True
            copies it, to be trained (FC-CLIP's table 6).

    Raises:
        CheckpointError: the image tower is of another kind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: ClipEncoder, *, trainable: bool = False) -> None:
        super().__init__()
        visual = clip.model.visual
        self.is_convnext = hasattr(visual, "trunk") and hasattr(visual.trunk, "stages")
        if not self.is_convnext and not hasattr(visual, "layer4"):
            raise CheckpointError(
                f"clip: the image tower is a {type(visual).__name__}, and dense features at four "
                "strides need a convolutional one; choose one such as convnext_large_d_320 or "
                "RN50-quickgelu"
            )
        self.trainable = trainable
        self.visual: Any = copy.deepcopy(visual) if trainable else visual
        self.visual.requires_grad_(trainable)
        self.register_buffer("mean", 255 * clip.mean, persistent=False)
        self.register_buffer("std", 255 * clip.std, persistent=False)

    def train(self, mode: bool = True) -> "DenseClip":
        """Training mode for a trainable tower alone."""
        return super().train(mode and self.trainable)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, fine to coarse."""
        if self.is_convnext:
            return tuple(info["num_chs"] for info in self.visual.trunk.feature_info)
        width = self.visual.layer1[-1].conv3.out_channels
        return (width, 2 * width, 4 * width, 8 * width)

    def levels(self, normalised: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """Feature maps at strides 4, 8, 16 and 32; without gradient unless the tower is trainable.

        Args:
            normalised: from `normalise`; height and width multiples of 32.
        """
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            if self.is_convnext:
                trunk = self.visual.trunk
                features, stages = trunk.stem(normalised), trunk.stages
            else:
                visual = self.visual
                features = visual.stem(normalised)
                stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
            found = []
            for stage in stages:
                features = stage(features)
                found.append(features)
            return tuple(found)

    def normalise(self, framed: FramedImage) -> Float[Tensor, "3 H W"]:
        """The image less CLIP's mean, by CLIP's deviation; padding is zero, as released.

        Args:
            framed: padded to multiples of 32.
        """
        height, width = framed.frame.resized
        image = framed.pixels[:, :height, :width].to(self.mean.device)
        normalised = image.new_zeros(framed.pixels.shape)
        normalised[:, :height, :width] = (image - self.mean) / self.std
        return normalised

    @torch.no_grad()
    def encode(self, framed: FramedImage) -> EncodedImage:
        """The levels of one image, those that it carries if it does.

        Args:
            framed: padded to multiples of 32.
        """
        if framed.encoded is not None and not self.trainable:
            return framed.encoded
        levels = self.levels(self.normalise(framed)[None])
        return EncodedImage(tuple(level[0] for level in levels))

    def pool(
        self, dense: Float[Tensor, "B C h w"], masks: Bool[Tensor, "B N h w"]
    ) -> Float[Tensor, "B N D"]:
        """Embeddings of masks in the joint space, not normalised.

        A ConvNeXt's are the mean of the features inside, then its norm and head; an empty mask
        pools to the zero vector, which gives the same embedding for any image.

        Args:
            dense: the last level.
            masks: True inside.
        """
        inside = masks.to(dense.dtype)
        sums = torch.einsum("bchw,bnhw->bnc", dense, inside)
        means = sums / (inside.sum((2, 3))[..., None] + SMALLEST_AREA)
        trunk = self.visual.trunk
        normed = F.layer_norm(
            means,
            means.shape[-1:],
            trunk.head.norm.weight,
            trunk.head.norm.bias,
            trunk.head.norm.eps,
        )
        embeddings: Tensor = self.visual.head(normed)
        return embeddings
