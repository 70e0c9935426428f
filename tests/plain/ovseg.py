"""OVSeg's region branch as published, a mask after the other, at full size."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.structures import Frame


class PlainOvseg(NamedTuple):
    """A CLIP with mask prompts, and how its answers are joined with the segmenter's.

    Attributes:
        clip: a `ClipEncoder` with a plain vision transformer.
        prompts: (depth, P, C).
        threshold: pixels of a higher probability are inside.
        weight: of CLIP in the ensemble; 0 for CLIP alone.
    """

    clip: nn.Module
    prompts: Tensor
    threshold: float
    weight: float

    def mask_probabilities(self, mask_logits: Tensor, frame: Frame) -> Tensor:
        padded = F.interpolate(mask_logits[None], frame.padded, mode="bilinear")[0]
        return padded[:, : frame.resized[0], : frame.resized[1]].sigmoid()

    def embedding(self, image: Tensor, inside: Tensor) -> Tensor:
        """Of one mask that is not empty."""
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        mask, crop = inside[top:bottom, left:right], image[:, top:bottom, left:right]
        filled = torch.where(mask, crop, self.clip.mean * 255)
        normalised = (filled / 255 - self.clip.mean) / self.clip.std
        size = (self.clip.resolution, self.clip.resolution)
        region = F.interpolate(normalised[None], size, mode="bicubic", align_corners=False)
        region_mask = F.interpolate(mask[None, None].float(), size, mode="nearest")
        return self.prompted(region, region_mask)[0]

    def prompted(self, region: Tensor, region_mask: Tensor) -> Tensor:
        visual = self.clip.visual
        flags = F.avg_pool2d(region_mask, visual.patch_size[0]).ceil().flatten(1)[..., None]
        patches = visual.conv1(region).flatten(2).transpose(1, 2)
        patches = flags * patches + (1 - flags) * self.prompts[0]
        tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding)
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            tokens = block(tokens)
            if number < len(self.prompts):
                replaced = flags * tokens[:, 1:] + (1 - flags) * self.prompts[number]
                tokens = torch.cat([tokens[:, :1], replaced], dim=1)
        return visual.ln_post(tokens[:, 0]) @ visual.proj

    def semantic_scores(
        self,
        image: Tensor,
        mask_logits: Tensor,
        frame: Frame,
        segmenter_logits: Tensor,
        words: Tensor,
    ) -> Tensor:
        """(K, H, W) of the original image.

        Args:
            image: RGB, 0 to 255, of the resized size.
            mask_logits: (N, h, w).
            frame: how they lie in the image.
            segmenter_logits: (N, K+1), no-object last.
            words: (K, D).
        """
        masks = self.mask_probabilities(mask_logits, frame)
        scores = torch.zeros(len(words), *frame.resized)
        for mask, logits in zip(masks, segmenter_logits, strict=True):
            own = logits.softmax(-1)[:-1]
            inside = mask > self.threshold
            if inside.any():
                embedding = F.normalize(self.embedding(image, inside), dim=-1)
                clips = (100 * F.normalize(words, dim=-1) @ embedding).softmax(-1)
                share = clips if self.weight == 0 else clips**self.weight
            else:
                share = torch.full_like(own, 0.0 if self.weight == 0 else 1.0)
            if self.weight > 0:
                share = share * own ** (1 - self.weight)
            scores += share[:, None, None] * mask
        return F.interpolate(scores[None], frame.original, mode="bilinear")[0]
