"""Mask pooling: CLIP's dense features pooled under each mask, then through CLIP's own head.

FC-CLIP (Yu et al., NeurIPS 2023), section 3.3, the out-of-vocabulary branch: one pass of the image
through CLIP, whose features a proposer that is built on them shares. As released: a mask is what
its logits, resized to the coarsest grid, have above 0 there; one that has nothing there pools to
zero, whose embedding is the same in every image and is marked invalid.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.dense import DenseClip, resampled
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals


class MaskPooling(nn.Module):
    """Masks in CLIP's joint space, pooled from its dense features of the whole image.

    Args:
        clip: any CLIP that `DenseClip` takes; frozen.
        tower: whose features: "clip"'s own, or of the copy that the proposer trained ("proposals",
            FC-CLIP's table 6), which begins as CLIP's until `load_tower`.
        binary: True for masks as released, where a mask smaller than a cell of the grid may have
            none; False weighs each cell by the share of it that is inside.
        input_size: pixels of the image's shorter side as CLIP sees it, to the next multiple of its
            stride; None for the image as framed. Another size costs a pass of its own.
        seed: nothing here is random.

    Raises:
        CheckpointError: an image tower without dense features.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        tower: Literal["clip", "proposals"] = "clip",
        binary: bool = True,
        input_size: PositiveInt | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.reader = DenseClip(clip, trainable=tower == "proposals").requires_grad_(False).eval()
        self.shares = tower == "clip" and input_size is None
        self.binary, self.input_size = binary, input_size

    @property
    def dense(self) -> DenseClip | None:
        """What reads the framed image, to be shared; None where this encoder alone can use it."""
        return self.reader if self.shares else None

    def train(self, mode: bool = True) -> "MaskPooling":
        """Evaluation mode always."""
        return super().train(False)

    def load_tower(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes the image tower that a proposer trained.

        Args:
            tensors: named as in the state dict of the proposer's `dense`.
            source: where they come from, for messages.

        Raises:
            CheckpointError: weights of another tower.
        """
        load_weights(self.reader, tensors, source=source)

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them, float32; the masks pass through."""
        if self.input_size is not None:
            scale = self.input_size / min(framed.frame.resized)
            framed = resampled(framed, scale, self.reader.stride)
        features = self.reader.encode(framed).levels[-1]
        height, width = features.shape[-2:]
        weights = self.weights(proposals.mask_logits.to(features.device), (height, width))
        with torch.autocast(features.device.type, enabled=False):
            embeddings = self.reader.pool(features.float()[None], weights[None])[0]
        return EncodedMasks(embeddings, proposals.mask_logits, weights.flatten(1).any(1))

    def weights(
        self, mask_logits: Float[Tensor, "N H W"], grid: tuple[int, int]
    ) -> Bool[Tensor, "N h w"] | Float[Tensor, "N h w"]:
        """How much each cell of the grid is inside each mask, 0 to 1.

        Area weights count logits above 0. The mean of their sigmoid would not do: its tails, summed
        over all the image, outweigh a small mask.

        Args:
            mask_logits: over the same area as the grid.
            grid: height and width.
        """
        if len(mask_logits) == 0:
            return mask_logits.new_zeros(0, *grid).bool()
        logits = mask_logits[:, None].float()
        if self.binary:
            return F.interpolate(logits, grid, mode="bilinear")[:, 0] > 0
        return F.interpolate((logits > 0).float(), grid, mode="area")[:, 0]
