"""The heads on regions: object or background with a better box, and a mask within the box.

He et al., Mask R-CNN, ICCV 2017, section 3, with the heads of the feature pyramid. Both are
class-agnostic: one class, "object", one box and one mask a region. Bins, hidden layers and (Fast
R-CNN's) initial deviations are published; two points a bin and direction, and the limit of pasted
probabilities, are choices (the paper finds the number of points to matter little).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# isort: off
from ovseg_cli import torchvision_ops  # noqa: F401  first: it makes torchvision importable

# isort: on
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

BOX_BINS = 7
MASK_BINS = 14
MASK_SIDE = 2 * MASK_BINS
LIMIT = 1e-4  # probabilities of pasted masks lie at least this far from 0 and 1
_POINTS = 2  # a bin and direction


class BoxHead(nn.Module):
    """Object or background, and by how much a region's box is to be moved.

    Args:
        channels: of the pyramid.
        hidden: channels of the two hidden layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = TwoMLPHead(channels * BOX_BINS**2, hidden)
        self.object = nn.Linear(hidden, 1)
        self.deltas = nn.Linear(hidden, 4)
        for linear, deviation in ((self.object, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(linear.weight, std=deviation)
            nn.init.zeros_(linear.bias)

    def forward(
        self, pooled: Float[Tensor, "R C 7 7"]
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, "R 4"]]:
        """Logits of being an object, and deltas; float32.

        Args:
            pooled: features of the regions.
        """
        hidden = self.layers(pooled)
        return self.object(hidden)[:, 0].float(), self.deltas(hidden).float()


class MaskHead(nn.Module):
    """The mask within a box.

    Args:
        channels: of the pyramid and of every layer.
        layers: 3x3 convolutions before the mask is doubled in size.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.layers = MaskRCNNHeads(channels, (channels,) * layers, 1)
        self.predictor = MaskRCNNPredictor(channels, channels, 1)

    def forward(self, pooled: Float[Tensor, "R C 14 14"]) -> Float[Tensor, "R 28 28"]:
        """Mask logits over the box, float32.

        Args:
            pooled: features of the regions.
        """
        logits: Tensor = self.predictor(self.layers(pooled))[:, 0]
        return logits.float()


def pool(
    levels: Sequence[Float[Tensor, "B C _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]], bins: int
) -> Float[Tensor, "S C bins bins"]:
    """Features of every image's boxes, one image after another, each from the level of its size.

    FPN, equation 1: a box of 224 x 224 pixels is read at stride 16. Differs from torchvision's:
    pixel centres lie at halves (`aligned`).

    Args:
        levels: strides 4, 8, 16 and 32.
        boxes: in pixels.
        bins: of a side of the result.
    """
    images = [box.new_full((len(box), 1), image) for image, box in enumerate(boxes)]
    rois = torch.cat([torch.cat(images), torch.cat(list(boxes))], 1)
    side = (rois[:, 3:] - rois[:, 1:3]).prod(-1).sqrt()
    level = (4 + (side / 224 + 1e-6).log2()).floor().clamp(2, 5).long() - 2
    rows, pooled = [], []
    for index, features in enumerate(levels):
        here = (level == index).nonzero()[:, 0]
        rows.append(here)
        pooled.append(
            torch.ops.torchvision.roi_align(
                features, rois[here], 0.25 / 2**index, bins, bins, _POINTS, True
            )
        )
    return torch.cat(pooled)[torch.cat(rows).argsort()]


def mask_targets(
    masks: Float[Tensor, "M H W"], boxes: Float[Tensor, "R 4"], indices: Float[Tensor, " R"]
) -> Float[Tensor, "R 28 28"]:
    """The part of each box's mask within the box, 1 where at least half of a bin is inside.

    Args:
        masks: annotated, 1 inside.
        boxes: in pixels.
        indices: the mask of each box, whole numbers.
    """
    rois = torch.cat([indices[:, None], boxes], 1)
    shares = torch.ops.torchvision.roi_align(
        masks[:, None], rois, 1.0, MASK_SIDE, MASK_SIDE, 0, True
    )
    return (shares[:, 0] >= 0.5).float()


def pasted(
    logits: Float[Tensor, "N s s"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    stride: int,
) -> Float[Tensor, "N h w"]:
    """Masks in their places as logits: above 0 where the probability is above a half.

    Probabilities are interpolated, 0 outside the box, and turned into logits again, so that what
    is certain stays within about 9.2 of 0.

    Args:
        logits: over each box.
        boxes: in pixels.
        size: (height, width) of the image in pixels.
        stride: pixels between the readings, each at the centre of its stride x stride pixels.
    """
    (left, top), (right, bottom) = boxes[:, :2].T, boxes[:, 2:].T
    y = (torch.arange(size[0] // stride, device=boxes.device) + 0.5) * stride
    x = (torch.arange(size[1] // stride, device=boxes.device) + 0.5) * stride
    down = 2 * (y - top[:, None]) / (bottom - top)[:, None] - 1  # (N, h), -1 and 1 at the edges
    across = 2 * (x - left[:, None]) / (right - left)[:, None] - 1
    shape = (len(boxes), len(y), len(x))
    grid = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], -1)
    probabilities = F.grid_sample(logits.sigmoid()[:, None], grid, align_corners=False)[:, 0]
    return probabilities.clamp(LIMIT, 1 - LIMIT).logit()
