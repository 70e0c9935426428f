"""Declare torchvision's compiled operators where the installed build cannot load them.

Import this module before anything that imports torchvision (open_clip and timm do). A torchvision
whose compiled part does not fit the installed torch fails at import with `operator
torchvision::nms does not exist`; with the schemas declared, its Python part loads. `nms` and
`roi_align` get plain implementations as well, which is what Mask R-CNN needs; call them as
`torch.ops.torchvision.nms` and `torch.ops.torchvision.roi_align`, whichever is there.
"""

import importlib.util
import os
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 2048  # boxes compared with one another at once
_CHUNK = 1 << 24  # most sampled values at once: 64 MB in fp32
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": (
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    ),
}
_libraries: list[torch.library.Library] = []  # a library that is collected takes its schemas away


def is_declared(name: str) -> bool:
    """Whether the operator `torchvision::<name>` has a schema."""
    return hasattr(torch.ops.torchvision, name)


def load_compiled_operators() -> bool:
    """Load torchvision's compiled operators without importing torchvision.

    Returns whether they are usable: False when torchvision is absent, has no compiled part or was
    compiled for another torch.
    """
    if is_declared("nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = Path(next(iter(spec.submodule_search_locations)))
    for library in sorted(folder.glob("_C*.pyd" if os.name == "nt" else "_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except (OSError, RuntimeError):
            continue
    return is_declared("nms")


def are_declared_here() -> bool:
    """Whether the operators are the plain ones, for want of compiled ones."""
    return bool(_libraries)


def nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], iou_threshold: float
) -> Int[Tensor, " K"]:
    """Indices of the boxes that non-maximum suppression keeps, best score first.

    A box is dropped when its IoU with a better kept box is above the threshold.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,) a score a box.
        iou_threshold: in 0..1.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    kept = order[:0]
    for block in torch.arange(len(boxes), device=boxes.device).split(_BLOCK):
        free = block[~_overlap(boxes[kept], boxes[block], iou_threshold).any(0)]
        covers = _overlap(boxes[free], boxes[free], iou_threshold).triu(1)
        kept = torch.cat([kept, free[_survivors(covers)]])
    return order[kept]


def _overlap(first: Tensor, second: Tensor, iou_threshold: float) -> Bool[Tensor, "N M"]:
    """Whether the IoU of each pair of boxes is above the threshold."""
    top_left = torch.maximum(first[:, None, :2], second[:, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[:, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared) > iou_threshold


def _survivors(covers: Bool[Tensor, "N N"]) -> Bool[Tensor, " N"]:
    """Which boxes no surviving better box covers: the only fixed point, found in a few rounds."""
    alive = torch.ones(len(covers), dtype=torch.bool, device=covers.device)
    while True:
        left = ~(covers & alive[:, None]).any(0)
        if torch.equal(left, alive):
            return alive
        alive = left


def roi_align(
    features: Float[Tensor, "B C H W"],
    rois: Float[Tensor, "N 5"],
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "N C ph pw"]:
    """The mean of each bin of each region, of values interpolated at points within the bin.

    He et al., Mask R-CNN, ICCV 2017, section 3. The points are sampled chunk by chunk, so that no
    more than the features and the result stay in memory. Gradients reach the features alone.

    Args:
        features: (B, C, H, W).
        rois: (N, 5) which image, then x1, y1, x2, y2 in pixels of the image.
        spatial_scale: features a pixel, such as 1/4.
        pooled_height: bins down.
        pooled_width: bins across.
        sampling_ratio: points a bin and direction; 0 or less for as many as there are features.
        aligned: whether pixel centres lie at halves; if not, a region is at least one feature wide.
    """
    corners = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0.0)
    extent = corners[:, 2:] - corners[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    bins = extent / extent.new_tensor([pooled_width, pooled_height])
    samples = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
    keys = torch.cat([rois[:, :1].detach(), samples], 1).long().cpu()
    places = [torch.arange(0)]
    pooled = [features.new_zeros(0, features.shape[1], pooled_height, pooled_width)]
    for key in keys.unique(dim=0):  # regions of one image with equally many points
        image, across, down = key.tolist()
        size = features.shape[1] * pooled_height * pooled_width * max(1, across * down)
        for part in (keys == key).all(1).nonzero()[:, 0].split(max(1, _CHUNK // size)):
            rows = part.to(corners.device)
            x = _points(corners[rows, 0], bins[rows, 0], pooled_width, across)
            y = _points(corners[rows, 1], bins[rows, 1], pooled_height, down)
            places.append(part)
            pooled.append(_bin_means(features[image], x, y).to(features.dtype))
    return torch.cat(pooled)[torch.cat(places).argsort().to(features.device)]


def _points(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> Float[Tensor, "n b s"]:
    """Coordinates of the points in every bin of every region, evenly spread."""
    steps = torch.arange(bins * max(0, samples), device=start.device, dtype=start.dtype)
    points = start[:, None] + bin_size[:, None] * (steps + 0.5) / max(1, samples)
    return points.unflatten(1, (bins, max(0, samples)))


def _bin_means(
    image: Float[Tensor, "C H W"], x: Float[Tensor, "n pw sx"], y: Float[Tensor, "n ph sy"]
) -> Float[Tensor, "n C ph pw"]:
    """Means over the points; one further than a feature outside the image counts as 0."""
    height, width = image.shape[1:]
    if not x.numel() or not y.numel():  # a region without extent has no points
        return image.new_zeros(len(x), len(image), y.shape[1], x.shape[1])
    inside_y, inside_x = (y >= -1) & (y <= height), (x >= -1) & (x <= width)
    inside = inside_y[:, :, :, None, None] & inside_x[:, None, None]  # (n, ph, sy, pw, sx)
    across = (2 * x.clamp(0, width - 1) + 1) / width - 1
    down = (2 * y.clamp(0, height - 1) + 1) / height - 1
    grid = torch.stack([across[:, None, None].expand(inside.shape),
                        down[:, :, :, None, None].expand(inside.shape)], -1)  # fmt: skip
    flat = grid.reshape(1, -1, x[0].numel(), 2)
    values = F.grid_sample(image[None].to(flat.dtype), flat, align_corners=False)[0]
    values = values.reshape(len(image), *inside.shape) * inside
    return values.mean((3, 5)).movedim(0, 1)


def declare_missing_operators() -> bool:
    """Declare the operators and register plain ones, only where the compiled ones are absent.

    Returns whether anything had to be declared.
    """
    if load_compiled_operators():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not is_declared(name):
            library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _libraries.append(library)
    return True


declare_missing_operators()
