"""Region proposals: anchors at every place of a feature pyramid, scored and moved.

Ren et al., Faster R-CNN, NeurIPS 2015, section 3, on a feature pyramid (Lin et al., FPN, CVPR 2017,
section 4.1): ratios, the IoUs of 0.7 and 0.3 that tell objects from background, and half of the
samples objects are theirs. The smooth L1 loss turns at 1/9 as torchvision's, not at 1. Differs from
torchvision's: scores leave the network together with the boxes, anchors and boxes are float32 under
autocast, and annotated masks decide what is sampled, not the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# isort: off
from ovseg_cli import torchvision_ops  # noqa: F401  first: it makes torchvision importable

# isort: on
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers

from .boxes import inside, is_large_enough, match, moved, sample, suppressed

RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors at a place
SHARE = 0.5  # of objects among the anchors that are learned


class Regions(NamedTuple):
    """Where objects may be in an image.

    Attributes:
        boxes: best first.
        scores: objectness, 0 to 1.
    """

    boxes: Float[Tensor, "R 4"]
    scores: Float[Tensor, " R"]


class AnchorPredictions(NamedTuple):
    """What is predicted for every anchor.

    Attributes:
        anchors: the same for every image.
        levels: how many of them each level of the pyramid has.
        objectness: logits.
        deltas: from an anchor to the box of its object.
    """

    anchors: Float[Tensor, "A 4"]
    levels: tuple[int, ...]
    objectness: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]


class RegionProposals(nn.Module):
    """The region proposal network.

    Args:
        channels: of every level of the pyramid.
        anchor_sizes: side of the square anchor at each level, in pixels.
        candidates: best anchors of a level that are looked at; twice as many in training.
        regions: regions of an image.
        nms: IoU above which the worse of two regions of a level is dropped.
        samples: anchors of an image that are learned.
    """

    def __init__(
        self,
        channels: int,
        *,
        anchor_sizes: tuple[int, ...],
        candidates: int,
        regions: int,
        nms: float,
        samples: int,
    ) -> None:
        super().__init__()
        self.candidates, self.regions, self.nms, self.samples = candidates, regions, nms, samples
        sizes = tuple((size,) for size in anchor_sizes)
        self.anchor_generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        self.head = RPNHead(channels, len(RATIOS))
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)

    def forward(
        self, levels: Sequence[Float[Tensor, "B C _ _"]], size: tuple[int, int]
    ) -> AnchorPredictions:
        """Predictions for every anchor of a batch.

        Args:
            levels: the pyramid, finest first.
            size: (height, width) of the images.
        """
        objectness, deltas = self.head(list(levels))
        counts = tuple(logits[0].numel() for logits in objectness)
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        batch = len(levels[0])
        return AnchorPredictions(
            self._anchors(levels, size),
            counts,
            flat_objectness.view(batch, -1).float(),
            flat_deltas.view(batch, -1, 4).float(),
        )

    def _anchors(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        self.anchor_generator.set_cell_anchors(torch.float32, levels[0].device)
        grids = [list(level.shape[-2:]) for level in levels]
        strides = [[size[0] // height, size[1] // width] for height, width in grids]
        return torch.cat(self.anchor_generator.grid_anchors(grids, strides))

    @torch.no_grad()
    def regions_of(
        self, predictions: AnchorPredictions, size: tuple[int, int]
    ) -> tuple[Regions, ...]:
        """The best regions of every image, after non-maximum suppression level by level.

        Args:
            predictions: of the anchors.
            size: (height, width) that regions are clipped to.
        """
        return tuple(
            self._of_image(predictions, logits, deltas, size)
            for logits, deltas in zip(predictions.objectness, predictions.deltas, strict=True)
        )

    def _of_image(
        self, predictions: AnchorPredictions, logits: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> Regions:
        limit = self.candidates * (2 if self.training else 1)
        found = []
        parts = (part.split(predictions.levels) for part in (predictions.anchors, logits, deltas))
        for anchors, level_logits, level_deltas in zip(*parts, strict=True):
            scores, best = level_logits.sigmoid().topk(min(limit, len(level_logits)))
            boxes = inside(moved(anchors[best], level_deltas[best], self.coder), size)
            large = is_large_enough(boxes)
            boxes, scores = boxes[large], scores[large]
            kept = suppressed(boxes, scores, self.nms)
            found.append(Regions(boxes[kept], scores[kept]))
        boxes, scores = (torch.cat(part) for part in zip(*found, strict=True))
        best = scores.argsort(descending=True, stable=True)[: self.regions]
        return Regions(boxes[best], scores[best])

    def losses(
        self,
        predictions: AnchorPredictions,
        boxes: Sequence[Float[Tensor, "_ 4"]],
        generators: Sequence[torch.Generator],
    ) -> tuple[tuple[Tensor, Tensor], int]:
        """Sums of the losses of objectness and of boxes, and over how many anchors.

        Args:
            predictions: of the anchors.
            boxes: of each image's annotated masks.
            generators: of each image's random anchors.
        """
        anchors = predictions.anchors
        objectness, box, count = predictions.objectness.new_zeros(()), anchors.new_zeros(()), 0
        for image, annotated in enumerate(boxes):
            labels, indices = match(anchors, annotated, self.matcher)
            chosen = sample(labels, self.samples, SHARE, generators[image])
            objectness = objectness + F.binary_cross_entropy_with_logits(
                predictions.objectness[image, chosen], labels[chosen].float(), reduction="sum"
            )
            objects = chosen[labels[chosen] == 1]
            wanted = self.coder.encode_single(annotated[indices[objects]], anchors[objects])
            box = box + F.smooth_l1_loss(
                predictions.deltas[image, objects], wanted, beta=1 / 9, reduction="sum"
            )
            count += len(chosen)
        return (objectness, box), count
