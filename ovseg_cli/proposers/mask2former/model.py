"""Mask2Former as a class-agnostic proposer.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022, with
one class, "object", as MasQCLIP trains it (Xu et al., ICCV 2023, section 3.2). The object score is
the softmax probability against "no object". Weights that tell classes apart serve as well: then it
is that of all classes together.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ...errors import RecipeError
from ...structures import Frame, FramedImage, Proposals
from ..imagenet_pixels import ImageNetPixels
from ..resnet import BackboneName, ResNet, resnet
from ..swin import SWINS, Swin, SwinName, swin
from .mask_decoder import MaskDecoder, MaskPredictions
from .pixel_decoder import GROUPS, PixelDecoder

STRIDE = 32


class Mask2Former(nn.Module):
    """Class-agnostic masks with object scores; the defaults are the paper's.

    Args:
        backbone: which ResNet or Swin; resnet10 has one basic block a stage, a final `c` is
            DeepLab's.
        backbone_width: channels of the backbone's stem; None for its paper's.
        backbone_norm: of a ResNet: `frozen_batch` for ImageNet weights, `group` for training from
            scratch.
        hidden_dim: channels of both decoders, a multiple of 32.
        mask_dim: channels of mask features and mask embeddings.
        queries: masks an image.
        heads: attention heads of both decoders.
        encoder_layers: deformable layers of the pixel decoder.
        encoder_feedforward_dim: hidden channels of their feed-forward networks.
        sampling_points: points a head and level of deformable attention.
        decoder_layers: layers of the mask decoder.
        feedforward_dim: hidden channels of their feed-forward networks.
        classes: that the weights tell apart; training has the first alone, "object".
    """

    def __init__(
        self,
        *,
        backbone: BackboneName | SwinName = "resnet50",
        backbone_width: PositiveInt | None = None,
        backbone_norm: Literal["frozen_batch", "group"] = "frozen_batch",
        hidden_dim: PositiveInt = 256,
        mask_dim: PositiveInt = 256,
        queries: PositiveInt = 100,
        heads: PositiveInt = 8,
        encoder_layers: PositiveInt = 6,
        encoder_feedforward_dim: PositiveInt = 1024,
        sampling_points: PositiveInt = 4,
        decoder_layers: PositiveInt = 9,
        feedforward_dim: PositiveInt = 2048,
        classes: PositiveInt = 1,
    ) -> None:
        super().__init__()
        check_hidden_dim(hidden_dim, heads)
        self.pixels = ImageNetPixels()
        self.backbone: Swin | ResNet
        if backbone in SWINS:
            self.backbone = swin(backbone, width=backbone_width)
        else:
            self.backbone = resnet(backbone, width=backbone_width or 64, norm=backbone_norm)
        self.pixel_decoder = PixelDecoder(
            self.backbone.channels,
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            layers=encoder_layers,
            heads=heads,
            points=sampling_points,
            feedforward_dim=encoder_feedforward_dim,
        )
        self.mask_decoder = MaskDecoder(
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            queries=queries,
            classes=classes,
            layers=decoder_layers,
            heads=heads,
            feedforward_dim=feedforward_dim,
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[MaskPredictions]:
        """Predictions of the queries and after every decoder layer, the final one last.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255; height and width multiples of 32.
        """
        return self.predictions(self.pixels(images), every_layer=True)

    def predictions(
        self, normalised: Float[Tensor, "B 3 H W"], *, every_layer: bool = False
    ) -> list[MaskPredictions]:
        """Predictions for normalised images.

        Args:
            normalised: (B, 3, H, W) with ImageNet's mean and deviation taken out.
            every_layer: give those of the queries and of every layer, the final one last.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        check_size((normalised.shape[-2], normalised.shape[-1]))
        pixels = self.pixel_decoder(self.backbone(normalised))
        predictions: list[MaskPredictions] = self.mask_decoder(pixels, every_layer=every_layer)
        return predictions

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """One mask a query with its object score.

        Args:
            framed: the image, padded to multiples of 32.
        """
        return self._proposals(self.pixels.framed(framed), framed.frame)[0]

    @torch.no_grad()
    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks, one a query, with their object scores.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        return self._proposals(self.pixels(images), frame)

    def _proposals(self, normalised: Tensor, frame: Frame) -> list[Proposals]:
        final = self.predictions(normalised)[-1]
        scores = final.classes.float().softmax(-1)[..., :-1].sum(-1)
        return [
            Proposals(masks.float(), frame, image_scores)
            for masks, image_scores in zip(final.mask_logits, scores, strict=True)
        ]


def check_hidden_dim(hidden_dim: int, heads: int) -> None:
    """Refuses a width that group norms or attention heads cannot share out.

    Args:
        hidden_dim: channels of both decoders.
        heads: attention heads of both decoders.

    Raises:
        RecipeError: it is no multiple of both.
    """
    if hidden_dim % GROUPS or hidden_dim % heads:
        raise RecipeError(
            f"[proposer] hidden_dim: {hidden_dim} is not a multiple of {GROUPS} and of heads "
            f"({heads}); choose one that is"
        )


def check_size(size: tuple[int, int]) -> None:
    """Refuses images whose coarsest level would not be whole.

    Args:
        size: height and width in pixels.

    Raises:
        ValueError: one of them is no multiple of 32.
    """
    if size[0] % STRIDE or size[1] % STRIDE:
        raise ValueError(f"image size {size}: not multiples of {STRIDE}")
