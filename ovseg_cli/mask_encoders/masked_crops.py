"""Masked crops: every mask's pixels as an image of their own, through the whole of CLIP.

MaskCLIP's "CLIP baseline" (Ding et al., ICML 2023, section 4.3): the binary mask times the image,
CLIP's image embedding, one forward pass a mask, which are `region` "image" and `fill` "black". Its
code is not released. Differs: an empty mask is marked invalid, where a black image would get a
class; padding is cut off first.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals


class MaskedCrops(nn.Module):
    """Masks in CLIP's joint space, each by an image of it alone; nothing is tuned.

    Args:
        clip: any CLIP.
        region: what is squashed to CLIP's square: the whole "image", or the mask's "box".
        fill: what is seen around the mask: "black", or CLIP's "mean" colour, which is zero once it
            is normalised.
        expand: sides of a box in those of the tightest one; what would lie outside the image is
            left out.
        threshold: mask logits above it are inside.
        batch_size: masks at a time; it changes memory and nothing else.
        seed: nothing here is random.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        region: Literal["image", "box"] = "image",
        fill: Literal["black", "mean"] = "black",
        expand: Annotated[float, Field(ge=1)] = 1.0,
        threshold: float = 0.0,
        batch_size: PositiveInt = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.region, self.fill, self.expand = region, fill, expand
        self.threshold, self.batch_size = threshold, batch_size

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them alone; the masks pass through."""
        device, (height, width) = self.clip.device, framed.frame.resized
        image = framed.pixels[:, :height, :width].to(device)
        embeddings = torch.zeros(len(proposals.mask_logits), self.clip.embedding_dim, device=device)
        valid = torch.zeros(len(embeddings), dtype=torch.bool, device=device)
        for rows in torch.arange(len(embeddings), device=device).split(self.batch_size):
            masks = self._masks(proposals.mask_logits.to(device)[rows], framed.frame)
            seen = masks.flatten(1).any(1)
            valid[rows] = seen
            if seen.any():
                crops = self.crops(image, masks[seen])
                embeddings[rows[seen]] = self.clip.encode_image(crops, self.batch_size)
        return EncodedMasks(embeddings, proposals.mask_logits, valid)

    def crops(
        self, image: Float[Tensor, "3 H W"], masks: Bool[Tensor, "N H W"]
    ) -> Float[Tensor, "N 3 R R"]:
        """What CLIP is shown of each mask, R being its resolution.

        Args:
            image: RGB, 0 to 255.
            masks: none of them empty.
        """
        around = self.clip.mean * 255 if self.fill == "mean" else torch.zeros_like(self.clip.mean)
        size = (self.clip.resolution, self.clip.resolution)
        shown = []
        for mask, (left, top, right, bottom) in zip(masks, self._regions(masks), strict=True):
            place = (..., slice(top, bottom), slice(left, right))
            crop = torch.where(mask[place], image[place], around)
            shown.append(F.interpolate(crop[None], size, mode="bicubic", align_corners=False))
        return torch.cat(shown)

    def _masks(self, mask_logits: Tensor, frame: Frame) -> Tensor:
        height, width = frame.resized
        at_pixels = F.interpolate(mask_logits[:, None].float(), frame.padded, mode="bilinear")
        return at_pixels[:, 0, :height, :width] > self.threshold

    def _regions(self, masks: Tensor) -> list[tuple[int, int, int, int]]:
        height, width = masks.shape[1:]
        if self.region == "image":
            return [(0, 0, width, height)] * len(masks)
        return [_grown(box, self.expand, (height, width)) for box in boxes_of(masks).tolist()]


def boxes_of(masks: Bool[Tensor, "N H W"]) -> Int[Tensor, "N 4"]:
    """The tightest box of every mask, xyxy in pixels, right and bottom exclusive.

    Args:
        masks: none of them empty.
    """
    columns, rows = masks.any(1).int(), masks.any(2).int()
    first = [columns.argmax(1), rows.argmax(1)]
    last = [inside.shape[1] - inside.flip(1).argmax(1) for inside in (columns, rows)]
    return torch.stack(first + last, dim=1)


def _grown(box: list[int], factor: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    more_x, more_y = ((factor - 1) / 2 * side for side in (right - left, bottom - top))
    height, width = size
    return (
        max(0, round(left - more_x)),
        max(0, round(top - more_y)),
        min(width, round(right + more_x)),
        min(height, round(bottom + more_y)),
    )
