"""Segment Anything as a proposer: masks at a grid of points, without training here.

Kirillov et al., Segment Anything, ICCV 2023, sections 5 and D (automatic mask generation without
crops of the image); MAFT (Jiao et al., NeurIPS 2023), table 5, classifies its masks. The model is
Hugging Face transformers', an extra. SAM's own script upsamples every mask to the image before it
judges its stability; here masks are judged at the decoder's quarter resolution.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..errors import CheckpointError, RecipeError
from ..recipe import Share
from ..structures import Frame, FramedImage, Proposals
from .imagenet_pixels import ImageNetPixels
from .mask_rcnn.boxes import boxes_of, suppressed

STRIDE = 4
_OUTSIDE = -20.0  # the logit of padding


class SamMasks(nn.Module):
    """Masks at a grid of points, those that SAM is sure of; the defaults are the published ones.

    Args:
        weights: a name on Hugging Face's hub, such as `facebook/sam-vit-huge`, or a folder with
            config.json and model.safetensors.
        points_per_side: points of the grid, along each side of the image.
        points_per_batch: points that masks are decoded for at once.
        least_iou: masks of which SAM predicts a lower IoU are left out.
        least_stability: masks with a lower IoU between a stricter and a laxer threshold are left
            out.
        stability_offset: how much stricter and laxer, in logits.
        box_nms: of two masks whose boxes have a greater IoU the worse one is left out.

    Raises:
        RecipeError: transformers is not installed.
        CheckpointError: the weights cannot be had, or are of another model.
    """

    def __init__(
        self,
        *,
        weights: str = "facebook/sam-vit-huge",
        points_per_side: PositiveInt = 32,
        points_per_batch: PositiveInt = 64,
        least_iou: Share = 0.88,
        least_stability: Share = 0.95,
        stability_offset: PositiveFloat = 1.0,
        box_nms: Share = 0.7,
    ) -> None:
        super().__init__()
        self.sam = _loaded(weights).float().eval().requires_grad_(False)
        self.side = int(self.sam.config.vision_config.image_size)
        self.pixels = ImageNetPixels()
        self.points_per_side, self.points_per_batch = points_per_side, points_per_batch
        self.least_iou, self.least_stability = least_iou, least_stability
        self.stability_offset, self.box_nms = stability_offset, box_nms

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """The masks of one image with the IoU that SAM predicts of them as scores, best first.

        Args:
            framed: the image, padded to multiples of 4.
        """
        height, width = framed.frame.resized
        scale = self.side / max(height, width)
        size = (round(height * scale), round(width * scale))
        image = framed.pixels[None, :, :height, :width].to(self.pixels.mean.device)
        resized = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        normalised = self.pixels(resized.clamp(0, 255))
        padded = F.pad(normalised, (0, self.side - size[1], 0, self.side - size[0]))
        masks, scores = self._masks(self.sam.get_image_embeddings(padded), size)
        return Proposals(_in_frame(masks, size, self.side, framed.frame), framed.frame, scores)

    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 4.
        """
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        return [self.propose(FramedImage(image, frame)) for image in images]

    def _masks(self, embedding: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The logits (N, s, s) over SAM's square and the scores of all good masks."""
        found = [
            self._good_masks(embedding, points, size)
            for points in self._grid(size, like=embedding).split(self.points_per_batch)
        ]
        masks, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        inside = masks[:, : _cells(size[0], masks, self.side), : _cells(size[1], masks, self.side)]
        boxes = boxes_of(inside > 0) if len(masks) else masks.new_zeros(0, 4)
        kept = suppressed(boxes, scores, self.box_nms)
        return masks[kept], scores[kept].clamp(0, 1)

    def _grid(self, size: tuple[int, int], *, like: Tensor) -> Float[Tensor, "P 2"]:
        """The x and y of every point, in pixels of SAM's square."""
        at = (torch.arange(self.points_per_side).to(like) + 0.5) / self.points_per_side
        y, x = torch.meshgrid(at * size[0], at * size[1], indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1)

    def _good_masks(
        self, embedding: Tensor, points: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        output = self.sam(image_embeddings=embedding, input_points=points[None, :, None])
        masks, scores = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten()
        sure = scores > self.least_iou
        masks, scores = masks[sure], scores[sure]
        rows, columns = (_cells(length, masks, self.side) for length in size)
        inside = masks[:, :rows, :columns]
        good = stability(inside, self.stability_offset) >= self.least_stability
        good &= (inside > 0).flatten(1).any(1)
        return masks[good], scores[good]


def stability(masks: Float[Tensor, "N h w"], offset: float) -> Float[Tensor, " N"]:
    """The IoU of each mask at a stricter threshold with the same at a laxer one; 0 without any.

    Args:
        masks: logits.
        offset: of both thresholds from 0.
    """
    strict, lax = ((masks > level).flatten(1).sum(1) for level in (offset, -offset))
    return strict / lax.clamp(min=1)


def _cells(length: int, masks: Tensor, side: int) -> int:
    """How many of the masks' cells lie over the first so many of the square's pixels."""
    return max(1, round(length * masks.shape[-1] / side))


def _in_frame(
    masks: Float[Tensor, "N s s"], size: tuple[int, int], side: int, frame: Frame
) -> Float[Tensor, "N h w"]:
    """Logits over SAM's square, sampled at the cells of the frame's own."""
    height, width = frame.padded[0] // STRIDE, frame.padded[1] // STRIDE
    if not len(masks):
        return masks.new_zeros(0, height, width)
    y, x = ((torch.arange(cells).to(masks) + 0.5) * STRIDE for cells in (height, width))
    across = [x * size[1] / frame.resized[1], y * size[0] / frame.resized[0]]
    grid_y, grid_x = torch.meshgrid(across[1], across[0], indexing="ij")
    grid = torch.stack([grid_x, grid_y], -1)[None] * (2 / side) - 1
    sampled = F.grid_sample(masks[None], grid, padding_mode="border", align_corners=False)[0]
    outside = (y >= frame.resized[0])[:, None] | (x >= frame.resized[1])
    return sampled.masked_fill(outside, _OUTSIDE)


def _loaded(weights: str) -> Any:
    try:
        from transformers import SamModel
    except ImportError as error:
        raise RecipeError(
            "[proposer] name: sam needs Hugging Face transformers, which is not installed; "
            "install it with 'pip install ovseg[sam]'"
        ) from error
    try:
        model, report = SamModel.from_pretrained(
            weights, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # the hub, the file and the configuration have errors of their own
        raise CheckpointError(_how_to_get(weights, error)) from error
    if report["missing_keys"] or report.get("mismatched_keys"):
        raise CheckpointError(f"[proposer] weights: {weights}: weights of another model than SAM")
    return model


def _how_to_get(weights: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(weights).is_dir():
        return (
            f"[proposer] weights: {weights}: SAM cannot be read from there ({reason}); the folder "
            "needs the config.json and model.safetensors of a SAM on Hugging Face's hub"
        )
    return (
        f"[proposer] weights: {weights}: not here, and cannot be downloaded ({reason}); download "
        f"config.json and model.safetensors from https://huggingface.co/{weights} into a folder "
        "and set proposer.weights to it"
    )
