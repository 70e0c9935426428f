"""RoIAlign point by point, as Mask R-CNN describes it."""

import math

import torch
from torch import Tensor


def roi_align(
    features: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """(N, C, height, width), one bilinear reading after another."""
    pooled = features.new_zeros(len(rois), features.shape[1], height, width)
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in corners)
        extent_x, extent_y = x2 - x1, y2 - y1
        if not aligned:
            extent_x, extent_y = max(extent_x, 1.0), max(extent_y, 1.0)
        bin_x, bin_y = extent_x / width, extent_y / height
        across = ratio if ratio > 0 else math.ceil(bin_x)
        down = ratio if ratio > 0 else math.ceil(bin_y)
        for i in range(height):
            for j in range(width):
                points = [
                    (y1 + bin_y * (i + (a + 0.5) / down), x1 + bin_x * (j + (b + 0.5) / across))
                    for a in range(down)
                    for b in range(across)
                ]
                values = [reading(features[int(image)], y, x) for y, x in points]
                pooled[n, :, i, j] = sum(values) / max(1, len(values))
    return pooled


def reading(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear between the four pixels around a point, 0 a pixel or more outside the image."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(image[:, 0, 0])
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)
