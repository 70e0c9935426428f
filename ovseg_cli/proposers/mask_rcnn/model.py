"""Mask R-CNN as a class-agnostic proposer.

He et al., Mask R-CNN, ICCV 2017, with one class, "object", as MasQCLIP trains its second proposer
(Xu et al., ICCV 2023, section 4.1). No code was released for it. The object score is the
objectness of the region that a mask's box was refined from, as in the paper, which leaves open how
boxes are ranked: here by that same score, once the box head has dropped those below its threshold.
Differs from the usual ranking by the box head, which keeps for an object the best of its boxes,
whatever the objectness of the region it came from.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

# isort: off
from ovseg_cli import torchvision_ops  # noqa: F401  first: it makes torchvision importable

# isort: on
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ...recipe import Share
from ...structures import Frame, FramedImage, Proposals
from ..imagenet_pixels import ImageNetPixels
from ..resnet import BackboneName, freeze, resnet
from .boxes import boxes_of, inside, is_large_enough, moved, suppressed
from .heads import BOX_BINS, MASK_BINS, BoxHead, MaskHead, pasted, pool
from .regions import RegionProposals, Regions
from .training import AnnotatedMasks, head_losses, mean, sampled

STRIDE = 4  # of the mask logits
FREE_OPTIONS = (  # may differ between training and use: the same weights mean the same
    "trained_stages",
    "candidates",
    "regions",
    "region_nms",
    "region_samples",
    "box_samples",
    "box_nms",
    "score_threshold",
    "detections",
)


class MaskRcnn(nn.Module):
    """Class-agnostic masks with object scores; the defaults are those of R50-FPN.

    Published: anchors, region NMS and region samples (Faster R-CNN, FPN), 1000 regions at test time
    and the box head (FPN), box samples, mask head and 100 detections (Mask R-CNN; MasQCLIP keeps
    100). Papers do not say, but torchvision has them too: candidates a level, three trained stages,
    box NMS of 0.5 and the score threshold of 0.05. Ours: 1000 regions in training as well (FPN has
    2000), object or background by one logit (theirs is a softmax), and the ranking, see above.

    Args:
        backbone: which ResNet; resnet10 has one basic block a stage, a final `c` is DeepLab's.
        backbone_width: channels of the backbone's stem.
        backbone_norm: `frozen_batch` for ImageNet weights, `group` for training from scratch.
        trained_stages: how many of the backbone's stages learn, from the last; 5 is all.
        channels: of the feature pyramid and of the mask head.
        anchor_sizes: side of the square anchor at strides 4, 8, 16, 32 and 64, in pixels.
        candidates: best anchors of a level that become regions; twice as many in training.
        regions: regions of an image that the heads look at.
        region_nms: IoU above which the worse of two regions is dropped.
        region_samples: anchors of an image that are learned.
        box_head_dim: channels of the box head's hidden layers.
        box_samples: regions of an image that are learned.
        box_nms: IoU above which the worse of two boxes is dropped.
        score_threshold: least probability of an object by the box head.
        mask_layers: convolutions of the mask head.
        detections: most masks of an image.
    """

    def __init__(
        self,
        *,
        backbone: BackboneName = "resnet50",
        backbone_width: PositiveInt = 64,
        backbone_norm: Literal["frozen_batch", "group"] = "frozen_batch",
        trained_stages: Annotated[int, Field(ge=0, le=5)] = 3,
        channels: PositiveInt = 256,
        anchor_sizes: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (
            32,
            64,
            128,
            256,
            512,
        ),
        candidates: PositiveInt = 1000,
        regions: PositiveInt = 1000,
        region_nms: Share = 0.7,
        region_samples: PositiveInt = 256,
        box_head_dim: PositiveInt = 1024,
        box_samples: PositiveInt = 512,
        box_nms: Share = 0.5,
        score_threshold: Share = 0.05,
        mask_layers: PositiveInt = 4,
        detections: PositiveInt = 100,
    ) -> None:
        super().__init__()
        self.backbone = resnet(backbone, width=backbone_width, norm=backbone_norm)
        freeze(self.backbone, 5 - trained_stages)
        self.pyramid = FeaturePyramidNetwork(
            list(self.backbone.channels), channels, extra_blocks=LastLevelMaxPool()
        )
        self.region_proposals = RegionProposals(
            channels,
            anchor_sizes=anchor_sizes,
            candidates=candidates,
            regions=regions,
            nms=region_nms,
            samples=region_samples,
        )
        self.box_head = BoxHead(channels, box_head_dim)
        self.mask_head = MaskHead(channels, mask_layers)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.box_samples, self.box_nms = box_samples, box_nms
        self.score_threshold, self.detections = score_threshold, detections
        self.pixels = ImageNetPixels()

    def forward(
        self, images: Float[Tensor, "B 3 H W"], targets: Sequence[AnnotatedMasks]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of a batch: rpn_objectness, rpn_box, box_class, box_reg and mask.

        Args:
            images: RGB, 0 to 255; height and width multiples of 32.
            targets: of each image.
        """
        size = (images.shape[-2], images.shape[-1])
        masks = [target.masks[target.masks.flatten(1).any(-1)] for target in targets]
        boxes = [boxes_of(own) for own in masks]
        generators = [torch.Generator().manual_seed(target.seed) for target in targets]
        levels = self._pyramid(self.pixels(images))
        predictions = self.region_proposals(levels, size)
        (objectness, box), count = self.region_proposals.losses(predictions, boxes, generators)
        regions = self.region_proposals.regions_of(predictions, size)
        samples = [
            sampled(
                own, annotated, matcher=self.matcher, count=self.box_samples, generator=generator
            )
            for own, annotated, generator in zip(regions, boxes, generators, strict=True)
        ]
        heads = {"box_head": self.box_head, "mask_head": self.mask_head}
        return {
            "rpn_objectness": mean(objectness, count),
            "rpn_box": mean(box, count),
            **head_losses(levels[:4], samples, masks, **heads, coder=self.coder),
        }

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """At most `detections` masks with their object scores, best first.

        Padding counts as the mean colour, whatever pixels are there; no mask begins in it.

        Args:
            framed: the image, padded to multiples of 32.
        """
        return self._proposals(self.pixels.framed(framed), framed.frame)[0]

    @torch.no_grad()
    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks with their object scores, best first.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        return self._proposals(self.pixels(images), frame)

    def _pyramid(self, normalised: Tensor) -> list[Tensor]:
        features = self.backbone(normalised)
        levels = self.pyramid({str(index): level for index, level in enumerate(features)})
        return list(levels.values())

    def _proposals(self, normalised: Tensor, frame: Frame) -> list[Proposals]:
        levels = self._pyramid(normalised)
        predictions = self.region_proposals(levels, frame.padded)
        regions = self.region_proposals.regions_of(predictions, frame.resized)
        logits, deltas = self.box_head(pool(levels[:4], [own.boxes for own in regions], BOX_BINS))
        counts = [len(own.boxes) for own in regions]
        found = [
            self._refined(*part, frame.resized)
            for part in zip(regions, logits.split(counts), deltas.split(counts), strict=True)
        ]
        masks = self.mask_head(pool(levels[:4], [own.boxes for own in found], MASK_BINS))
        return [
            Proposals(pasted(own_masks, own.boxes, frame.padded, STRIDE), frame, own.scores)
            for own, own_masks in zip(
                found, masks.split([len(own.boxes) for own in found]), strict=True
            )
        ]

    def _refined(
        self, regions: Regions, logits: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> Regions:
        """The boxes that the box head makes of regions, with the regions' scores, best first."""
        boxes = inside(moved(regions.boxes, deltas, self.coder), size)
        good = (is_large_enough(boxes) & (logits.sigmoid() > self.score_threshold)).nonzero()[:, 0]
        kept = good[suppressed(boxes[good], regions.scores[good], self.box_nms)]
        kept = kept[: self.detections]
        return Regions(boxes[kept], regions.scores[kept])
