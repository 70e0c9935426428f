"""Pixels as backbones that were trained on ImageNet expect them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..structures import FramedImage

MEAN = (123.675, 116.28, 103.53)  # RGB, 0 to 255
STD = (58.395, 57.12, 57.375)


class ImageNetPixels(nn.Module):
    """Takes out ImageNet's mean and deviation; has no part in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Normalised images on this module's device.

        Args:
            images: RGB, 0 to 255.
        """
        return (images.to(self.mean.device) - self.mean) / self.std

    def framed(self, framed: FramedImage) -> Float[Tensor, "1 3 H W"]:
        """A framed image, normalised.

        Padding counts as the mean colour, as in the released code, whatever pixels are there.

        Args:
            framed: the image, padded.
        """
        height, width = framed.frame.resized
        image = framed.pixels[None, :, :height, :width]
        normalised = self.mean.new_zeros(1, *framed.pixels.shape)
        normalised[..., :height, :width] = self(image)
        return normalised
