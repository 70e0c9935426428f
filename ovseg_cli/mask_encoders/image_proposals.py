"""Image proposals: masks as class tokens inside CLIP, in an image tower that can be tuned for them.

MAFT (Jiao et al., NeurIPS 2023): section 3.1, IP-CLIP, which encodes an image and all its masks in
one pass; its image tower is what mask-aware fine-tuning trains. As released, and not in the paper:
a mask sees a patch when its probability there is at least a half; image and masks are squashed
to a square whatever their shape, the image's padding as CLIP's mean colour. Differs: mask logits
lie as the frame says, with corners on corners only where the recipe asks for it
(`framing.align_corners`); probabilities are worked out only at those pixels of the padded image
that the patches' grid samples, which gives the same values.
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.image_proposals import MaskReadingTower, mask_reading_tower
from ovseg_cli.errors import RecipeError
from ovseg_cli.mask_encoders.tuned_tensors import load_beside_clip, tensors_beside_clip
from ovseg_cli.recipe import Share
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals


class ImageProposals(nn.Module):
    """Masks in CLIP's joint space, through class tokens that see the masked patches.

    The CLIP is frozen; a tuned image tower is a second one beside it, and the frozen one its
    teacher.

    Args:
        clip: its image tower is a plain vision transformer, or a ResNet with attention pooling.
        start_layer: the first layer, from 0, with a class token for each mask. The released code
            has 8 whatever the tower, and its configuration's number is not read.
        input_size: side in pixels of the square that images are squashed to; None for CLIP's own.
        threshold: patches of at least this mask probability are seen.
        tuned: whether `tune-clip` trains, or has trained, an image tower ("maft").
        keep_empty: whether a mask without any cell above the threshold counts, as its token then
            is by itself. As released they count, unless a second classifier is there to ask: set
            this to false with `classification.ensemble`.
        seed: nothing here is random.

    Raises:
        CheckpointError: the image tower is of another kind.
        RecipeError: it has no such layer, or takes no image of that size.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        start_layer: NonNegativeInt = 8,
        input_size: PositiveInt | None = 480,
        threshold: Share = 0.5,
        tuned: Literal["none", "maft"] = "none",
        keep_empty: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.start_layer, self.threshold, self.keep_empty = start_layer, threshold, keep_empty
        self.input_size = input_size or clip.resolution
        tower = mask_reading_tower(clip.model.visual, start_layer=start_layer)
        self.grid = tower.grid(self.input_size)
        if not self.grid:
            raise RecipeError(
                f"[mask_encoder] input_size: {self.input_size} pixels are less than one cell of "
                f"this CLIP's grid; set it to {clip.resolution} or more"
            )
        self.visual: nn.Module | None = None
        if tuned == "maft":
            self.visual = copy.deepcopy(clip.model.visual).requires_grad_(True)

    def forward(
        self, images: Float[Tensor, "B 3 S S"], masks: Float[Tensor, "B N h w"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B D"]]:
        """Embeddings of every image's masks and of the images, not normalised, float32.

        Both passes share the layers before the start layer; gradients reach what is tuned.

        Args:
            images: RGB, 0 to 255, from `squashed`.
            masks: probabilities over the same area, at any size, from `mask_probabilities`.
        """
        tower = self._tower()
        shared = tower.read(self._normalised(images))
        of_masks = tower.of_masks(shared, self.visible_patches(masks))
        return _at_least_float(of_masks), _at_least_float(tower.of_image(shared))

    def mask_embeddings(
        self, images: Float[Tensor, "B 3 S S"], masks: Float[Tensor, "B N h w"]
    ) -> Float[Tensor, "B N D"]:
        """The first of what a forward pass gives, without the cost of the second.

        Args:
            images: RGB, 0 to 255, from `squashed`.
            masks: probabilities over the same area, at any size.
        """
        tower = self._tower()
        shared = tower.read(self._normalised(images))
        return _at_least_float(tower.of_masks(shared, self.visible_patches(masks)))

    @torch.no_grad()
    def teacher(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """The images as the frozen CLIP sees them, not normalised, float32.

        Args:
            images: RGB, 0 to 255, from `squashed`.
        """
        tower = mask_reading_tower(self.clip.model.visual, start_layer=self.start_layer)
        return _at_least_float(tower.of_image(tower.read(self._normalised(images))))

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them; the masks pass through."""
        device = self.clip.device
        mask_logits = proposals.mask_logits.to(device)
        probabilities = self.mask_probabilities(mask_logits, proposals.frame)
        images = self.squashed(framed)[None]
        embeddings = self.mask_embeddings(images, probabilities[None])[0]
        valid = torch.ones(len(embeddings), dtype=torch.bool, device=device)
        if not self.keep_empty:
            valid = (mask_logits.float().sigmoid() > self.threshold).flatten(1).any(1)
        return EncodedMasks(embeddings, proposals.mask_logits, valid)

    def squashed(self, framed: FramedImage) -> Float[Tensor, "3 S S"]:
        """The padded image as a square of `input_size`, padded with CLIP's mean colour.

        Args:
            framed: left as it is.
        """
        height, width = framed.frame.resized
        pixels = framed.pixels.to(self.clip.device, copy=True)
        around = 255 * self.clip.mean
        pixels[:, height:], pixels[:, :, width:] = around, around
        size = (self.input_size, self.input_size)
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]

    @torch.no_grad()
    def mask_probabilities(
        self, mask_logits: Float[Tensor, "N h w"], frame: Frame
    ) -> Float[Tensor, "N g g"]:
        """Mask probabilities on the grid of CLIP's cells.

        The same as of all pixels: the logits upsampled to the padded image, made probabilities
        there, and these resized bilinearly to the grid.

        Args:
            mask_logits: covering the padded image, at any stride.
            frame: how they lie in the image.
        """
        logits = mask_logits.to(torch.promote_types(mask_logits.dtype, torch.float32))
        rows, columns = (
            _samples(cells, pixels, self.grid, align_corners=frame.align_corners)
            for cells, pixels in zip(logits.shape[1:], frame.padded, strict=True)
        )
        to_pixels, to_grid = (
            (down.to(logits), across.to(logits)) for down, across in zip(rows, columns, strict=True)
        )
        with torch.autocast(logits.device.type, enabled=False):  # a threshold will be exact
            at_pixels = (to_pixels[0].T @ logits @ to_pixels[1]).sigmoid()
            return to_grid[0].T @ at_pixels @ to_grid[1]

    @torch.no_grad()
    def visible_patches(self, masks: Float[Tensor, "B N h w"]) -> Bool[Tensor, "B N P"]:
        """Which of CLIP's cells each mask's class token may see.

        Args:
            masks: probabilities over the area of the image, at any size.
        """
        if masks.shape[1] == 0:
            return masks.new_zeros((len(masks), 0, self.grid**2), dtype=torch.bool)
        at_grid = F.interpolate(masks, (self.grid, self.grid), mode="bilinear")
        return at_grid.flatten(2) >= self.threshold

    def train(self, mode: bool = True) -> "ImageProposals":
        """Evaluation mode always: a ResNet keeps its statistics, and a tower learns in it."""
        return super().train(False)

    def tuned_tensors(self) -> dict[str, Tensor]:
        """The tuned image tower, its names beginning with `visual.`."""
        return tensors_beside_clip(self)

    def load_tuned_tensors(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes what `tuned_tensors` gave, see `load_beside_clip`."""
        load_beside_clip(self, tensors, source=source)

    def _tower(self) -> MaskReadingTower:
        visual = self.clip.model.visual if self.visual is None else self.visual
        return mask_reading_tower(visual, start_layer=self.start_layer)

    def _normalised(self, images: Tensor) -> Tensor:
        normalised = (images / 255 - self.clip.mean) / self.clip.std
        return normalised.to(self.clip.model.logit_scale)


def _at_least_float(embeddings: Tensor) -> Tensor:
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def _samples(cells: int, pixels: int, grid: int, *, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Of an axis, for the pixels that a grid samples: their weights in cells, the grid's in them.

    Args:
        cells: of the mask logits.
        pixels: of the padded image.
        grid: cells of the grid, sampled bilinearly without antialiasing.
        align_corners: how the mask logits lie in the padded image.
    """
    to_pixels = F.interpolate(
        torch.eye(cells)[None], pixels, mode="linear", align_corners=align_corners
    )[0]
    to_grid = F.interpolate(torch.eye(pixels)[None], grid, mode="linear", align_corners=False)[0]
    sampled = to_grid.any(1)
    return to_pixels[:, sampled], to_grid[sampled]
