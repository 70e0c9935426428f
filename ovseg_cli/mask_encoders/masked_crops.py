"""Masked crops: every mask's pixels as an image of their own, through the whole of CLIP.

OVSeg (Liang et al., CVPR 2023), section 3: the box of a mask, CLIP's mean colour around the mask,
CLIP's image tower as published, tuned, or with mask prompts. MaskCLIP's "CLIP baseline" (Ding et
al., ICML 2023, section 4.3), whose code is not released: the whole image, black around the mask.
The three ways that are compared in Xu et al. (ECCV 2022, "a simple baseline") are "mask" (region
image, fill mean), "crop" (region box, fill none) and both at once (region box, fill mean). Differs:
padding is cut off first; an empty mask is marked invalid, where a black image would get a class;
one mask and none work as any other number.
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.crop_tower import check_side_fits, encode_crops
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import RecipeError
from ovseg_cli.mask_encoders.crop_cutting import Crops, cut
from ovseg_cli.mask_encoders.mask_prompts import MaskPrompts
from ovseg_cli.mask_encoders.same_masks import stand_ins
from ovseg_cli.mask_encoders.tuned_tensors import load_beside_clip, tensors_beside_clip
from ovseg_cli.recipe import Share
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals

Tuned = Literal["none", "mpt", "finetune", "joint"]
PIXELS = 1 << 24  # of masked images at once: 200 MB
TOWER = "visual."


class MaskedCrops(nn.Module):
    """Masks in CLIP's joint space, each by an image of it alone.

    The CLIP is frozen; a tuned image tower is a second one beside it.

    Args:
        clip: any CLIP; prompts need a plain vision transformer.
        region: what is squashed to CLIP's square: the whole "image", or the mask's "box".
        fill: what is seen around the mask: "black", CLIP's "mean" colour, which is zero once it is
            normalised, or "none": what is there.
        side: of the squares in pixels; None for CLIP's resolution. Smaller ones, for a CLIP that
            learned from such crops, lie in the middle of its square.
        expand: sides of a box in those of the tightest one; what would lie outside the image is
            left out.
        threshold: pixels of a higher mask probability are inside; OVSeg's are 0.4 for Swin-B and
            0.5 for ResNet-101c.
        tuned: what `tune-clip` trains, or has trained: mask prompts ("mpt"), the whole image tower
            ("finetune"), or both at once ("joint").
        prompts: depth of the mask prompts, in layers; OVSeg's is 3. Tuning the tower alone leaves
            them as they are.
        least_score: proposals of a lower object score, or with a higher share of void than one
            less this, are not looked at, and invalid; see `Segmenter.encode`.
        same_above: masks that overlap one of a higher object score by a higher IoU share its
            embedding; None looks at every mask.
        batch_size: masks at a time; it changes memory and nothing else.
        seed: of the prompts' random beginning.

    Raises:
        RecipeError: options that contradict one another.
        CheckpointError: prompts or a side that the image tower has no place for.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        region: Literal["image", "box"] = "image",
        fill: Literal["black", "mean", "none"] = "black",
        side: PositiveInt | None = None,
        expand: Annotated[float, Field(ge=1)] = 1.0,
        threshold: Share = 0.5,
        tuned: Tuned = "none",
        prompts: NonNegativeInt = 0,
        least_score: Share = 0.0,
        same_above: Share | None = None,
        batch_size: PositiveInt = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(region, fill, tuned, prompts)
        self.clip = clip.requires_grad_(False)
        self.region, self.fill, self.expand = region, fill, expand
        self.side = side or clip.resolution
        check_side_fits(clip.model.visual, self.side, clip.resolution)
        self.threshold, self.batch_size = threshold, batch_size
        self.least_score, self.same_above = least_score, same_above
        self.tuned = tuned
        self.visual: nn.Module | None = (
            self._new_tower() if tuned in ("finetune", "joint") else None
        )
        self.mask_prompts = (
            MaskPrompts.of(clip, depth=prompts, side=self.side, seed=seed) if prompts else None
        )
        if self.mask_prompts is not None:
            self.mask_prompts.requires_grad_(tuned in ("mpt", "joint"))

    def forward(
        self, crops: Float[Tensor, "N 3 R R"], masks: Bool[Tensor, "N R R"]
    ) -> Float[Tensor, "N D"]:
        """Crops in the joint space, not normalised, float32; gradients reach what is tuned.

        Args:
            crops: RGB, 0 to 255, from `cut`.
            masks: True inside; only mask prompts look at them.
        """
        pixels = ((crops / 255 - self.clip.mean) / self.clip.std).to(self.clip.model.logit_scale)
        visual = self.clip.model.visual if self.visual is None else self.visual
        prompts = None if self.mask_prompts is None else self.mask_prompts()
        return encode_crops(visual, pixels, masks, prompts).float()

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them alone; the masks pass through."""
        device, (height, width) = self.clip.device, framed.frame.resized
        image = framed.pixels[:, :height, :width].to(device)
        mask_logits = proposals.mask_logits.to(device)
        embeddings = torch.zeros(len(mask_logits), self.clip.embedding_dim, device=device)
        valid = torch.zeros(len(embeddings), dtype=torch.bool, device=device)
        scores, ranked = proposals.scores.to(device).sort(descending=True, stable=True)
        wanted = ranked[scores >= self.least_score]
        standing = self._stand_ins(mask_logits[wanted])
        for rows in wanted[standing.unique()].split(self._at_once(framed.frame)):
            masks = self._masks(mask_logits[rows], framed.frame)
            seen = masks.flatten(1).any(1)
            valid[rows] = seen
            if seen.any():
                embeddings[rows[seen]] = self(*self.crops(image, masks[seen]))
        embeddings[wanted], valid[wanted] = embeddings[wanted[standing]], valid[wanted[standing]]
        return EncodedMasks(embeddings, proposals.mask_logits, valid)

    def crops(
        self,
        image: Float[Tensor, "3 H W"],
        masks: Bool[Tensor, "N H W"],
        boxes: Int[Tensor, "N 4"] | None = None,
    ) -> Crops:
        """What CLIP is shown of each mask, R being the side.

        Args:
            image: RGB, 0 to 255.
            masks: none of them empty.
            boxes: what of the image each square shows; None for `boxes`.
        """
        shown = self.boxes(masks) if boxes is None else boxes
        return cut(image, masks, shown, side=self.side, around=self._around())

    def boxes(self, masks: Bool[Tensor, "N H W"]) -> Int[Tensor, "N 4"]:
        """What of the image is shown of each mask, xyxy in pixels, right and bottom exclusive.

        Args:
            masks: none of them empty.
        """
        height, width = masks.shape[1:]
        if self.region == "image":
            return masks.new_tensor([0, 0, width, height], dtype=torch.long).expand(len(masks), 4)
        return _grown(boxes_of(masks), self.expand, (height, width))

    def train(self, mode: bool = True) -> "MaskedCrops":
        """The mode of all but the towers, which keep CLIP's statistics and drop nothing."""
        super().train(mode)
        self.clip.eval()
        if self.visual is not None:
            self.visual.eval()
        return self

    def load_tower(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes an image tower to begin with, frozen unless it is to be tuned.

        Args:
            tensors: named as open_clip's `visual` names them.
            source: where they come from, for messages.

        Raises:
            CheckpointError: weights of another tower.
        """
        self.visual = self.visual or self._new_tower().requires_grad_(False)
        load_weights(self.visual, tensors, source=source)

    def tuned_tensors(self) -> dict[str, Tensor]:
        """What tuning trains, by name, and the tower that it began with if that is not CLIP's."""
        return tensors_beside_clip(self)

    def load_tuned_tensors(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes what `tuned_tensors` gave, see `load_beside_clip`."""
        if self.visual is None and any(name.startswith(TOWER) for name in tensors):
            self.visual = self._new_tower().requires_grad_(False)
        load_beside_clip(self, tensors, source=source)

    def _new_tower(self) -> nn.Module:
        return copy.deepcopy(self.clip.model.visual).requires_grad_(True)

    def _around(self) -> Tensor | None:
        if self.fill == "none":
            return None
        return self.clip.mean * 255 if self.fill == "mean" else torch.zeros_like(self.clip.mean)

    def _at_once(self, frame: Frame) -> int:
        height, width = frame.padded
        return max(1, min(self.batch_size, PIXELS // (height * width)))

    def _masks(self, mask_logits: Tensor, frame: Frame) -> Tensor:
        height, width = frame.resized
        at_pixels = F.interpolate(mask_logits[:, None].float(), frame.padded, mode="bilinear")
        return at_pixels[:, 0, :height, :width].sigmoid() > self.threshold

    def _stand_ins(self, mask_logits: Tensor) -> Tensor:
        if self.same_above is None:
            return torch.arange(len(mask_logits), device=mask_logits.device)
        return stand_ins(mask_logits.float().sigmoid() > self.threshold, self.same_above)


def boxes_of(masks: Bool[Tensor, "N H W"]) -> Int[Tensor, "N 4"]:
    """The tightest box of every mask, xyxy in pixels, right and bottom exclusive.

    Args:
        masks: none of them empty.
    """
    columns, rows = masks.any(1).int(), masks.any(2).int()
    first = [columns.argmax(1), rows.argmax(1)]
    last = [inside.shape[1] - inside.flip(1).argmax(1) for inside in (columns, rows)]
    return torch.stack(first + last, dim=1)


def _grown(boxes: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Boxes larger by a factor, cut off at the image's border."""
    more = (boxes[:, 2:] - boxes[:, :2]) * ((factor - 1) / 2)
    first = (boxes[:, :2] - more).round().clamp(min=0)
    last = (boxes[:, 2:] + more).round().minimum(more.new_tensor(size[::-1]))
    return torch.cat([first, last], dim=1).long()


def _check(region: str, fill: str, tuned: Tuned, prompts: int) -> None:
    if region == "image" and fill == "none":
        raise RecipeError(
            "[mask_encoder] region image with fill none shows the same picture for every mask; set "
            "region to box, or fill to mean"
        )
    if prompts and tuned == "none":
        raise RecipeError(
            f"[mask_encoder] prompts: {prompts} that nothing trains, as tuned is {tuned}; set "
            "tuned to mpt, joint or finetune, or prompts to 0"
        )
    if not prompts and tuned in ("mpt", "joint"):
        raise RecipeError(
            f"[mask_encoder] tuned: {tuned} trains mask prompts, and prompts is 0; set prompts to "
            "a depth such as 3, or tuned to finetune"
        )
