"""CLIP's image towers as backbones: feature maps of any input size, and masks pooled from them.

FC-CLIP (Yu et al., NeurIPS 2023), section 3.3: the features of a frozen CLIP, from which mask
pooling makes embeddings in CLIP's joint space.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.dense_convnext import ConvNextTower
from ovseg_cli.clip.dense_resnet import ResNetTower
from ovseg_cli.clip.dense_transformer import TransformerTower
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError
from ovseg_cli.structures import EncodedImage, Frame, FramedImage

TOWERS = (ConvNextTower, ResNetTower, TransformerTower)
FOUR_STRIDES = (4, 8, 16, 32)


class DenseClip(nn.Module):
    """An image tower's feature maps, and mask pooling of the last one.

    A frozen tower is the CLIP's own, without gradient and in evaluation mode whatever mode this
    module is in; it is no part of this module's state dict and parameters, but moves with it.

    Args:
        clip: its image tower is a ConvNeXt or a ResNet, with four levels at strides 4, 8, 16 and
            32, or a plain vision transformer, with one level of its patches.
        trainable: False shares the CLIP's own tower; True copies it, to be trained (FC-CLIP's
            table 6), all but what no level reads, the step into the joint space. It stays in
            evaluation mode: CLIP's statistics are kept, so that a batch is learned the same however
            it is spread over processes.

    Raises:
        CheckpointError: the image tower is of another kind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: ClipEncoder, *, trainable: bool = False) -> None:
        super().__init__()
        visual = clip.model.visual
        kind = next((kind for kind in TOWERS if kind.fits(visual)), None)
        if kind is None:
            raise CheckpointError(
                f"clip: dense features need a ConvNeXt, a ResNet or a plain vision transformer, "
                f"and this image tower is a {type(getattr(visual, 'trunk', visual)).__name__} of "
                "another kind; choose one such as convnext_large_d_320 or RN50-quickgelu"
            )
        self.trainable = trainable
        if trainable:
            visual = self.visual = copy.deepcopy(visual)
        self.tower = kind(visual.requires_grad_(False))
        for name, parameter in visual.named_parameters():
            parameter.requires_grad_(trainable and not name.startswith(self.tower.unread))
        self.register_buffer("mean", 255 * clip.mean, persistent=False)
        self.register_buffer("std", 255 * clip.std, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DenseClip":
        if not self.trainable:
            cast(Any, self.tower.visual)._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> "DenseClip":
        """Evaluation mode always; what is trainable learns in it."""
        return super().train(False)

    @property
    def stride(self) -> int:
        """Pixels of the last level's cells; heights and widths must be multiples of it."""
        return self.tower.strides[-1]

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the levels at strides 4, 8, 16 and 32.

        Raises:
            CheckpointError: the tower has no such levels.
        """
        if self.tower.strides != FOUR_STRIDES:
            raise CheckpointError(
                f"clip: the image tower is a {type(self.tower.visual).__name__}, and a backbone "
                "needs features at four strides; choose a convolutional CLIP such as "
                "convnext_large_d_320 or RN50-quickgelu"
            )
        first, second, third, fourth = self.tower.channels
        return first, second, third, fourth

    def levels(self, normalised: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """Feature maps, fine to coarse; without gradient unless the tower is trainable.

        Args:
            normalised: from `normalise`; height and width multiples of `stride`.
        """
        if self.trainable:
            return self.tower.levels(normalised)
        self.tower.visual.eval()  # the CLIP may be part of what is trained
        with torch.no_grad():
            return self.tower.levels(normalised)

    def normalise(self, framed: FramedImage) -> Float[Tensor, "3 H W"]:
        """The image less CLIP's mean, by CLIP's deviation; padding is zero, as released.

        Args:
            framed: of any size.
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
            framed: of any size; one that is padded to other multiples than the tower's is
                resampled to the nearest ones, and the levels cover the same area.
        """
        if framed.encoded is not None and not self.trainable:
            return framed.encoded
        if any(side % self.stride for side in framed.frame.padded):
            framed = resampled(framed, 1.0, self.stride)
        levels = self.levels(self.normalise(framed)[None])
        return EncodedImage(tuple(level[0] for level in levels))

    def pool(
        self,
        dense: Float[Tensor, "B C h w"],
        masks: Bool[Tensor, "B N h w"] | Float[Tensor, "B N h w"],
    ) -> Float[Tensor, "B N D"]:
        """Embeddings of masks in the joint space, not normalised.

        Empty masks get an embedding that says nothing of what is where: see the towers.

        Args:
            dense: the last level.
            masks: True inside, or weights of at least 0.
        """
        return self.tower.pool(dense, masks.to(dense.dtype))


def resampled(framed: FramedImage, scale: float, divisor: int) -> FramedImage:
    """The same area at another size, to the nearest multiples: each side by its own factor.

    Args:
        framed: its dense features are left behind.
        scale: new sides in old ones.
        divisor: of the new padded height and width.
    """
    old = framed.frame
    height, width = (max(1, round(side * scale / divisor)) * divisor for side in old.padded)
    inner = [
        max(1, math.floor(inside * new / side + 0.5))
        for inside, side, new in zip(old.resized, old.padded, (height, width), strict=True)
    ]
    image = framed.pixels[None, :, : old.resized[0], : old.resized[1]]
    pixels = F.interpolate(image, (inner[0], inner[1]), mode="bilinear", antialias=True)[0]
    padded = F.pad(pixels, (0, width - inner[1], 0, height - inner[0]))
    frame = Frame(padded=(height, width), resized=(inner[0], inner[1]), original=old.original)
    return replace(framed, pixels=padded, frame=frame, encoded=None)
