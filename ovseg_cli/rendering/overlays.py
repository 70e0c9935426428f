"""Overlays: segments in colour over the image, named in place, with a legend below.

Small images are enlarged so that words can be read, large ones are reduced: a drawing is for eyes,
the exact maps are in the other files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..structures import VOID, Instances, Segment, Segmentation, Vocabulary
from .colors import segment_colors
from .legend import BACKGROUND, FONT_SIZE, font, short, with_legend

SHORTEST_SIDE = 512
LONGEST_SIDE = 1280
MIN_INSTANCE_SCORE = 0.5
_MAX_ENLARGEMENT = 8
_SMOOTHED = 40  # segments whose outlines are smoothed when an image is enlarged


@dataclass(frozen=True)
class _Layer:
    """What is drawn: (H, W) region numbers from 1, 0 for nothing, and a segment for each."""

    regions: np.ndarray
    segments: tuple[Segment, ...]


def overlay(
    image: UInt8[Tensor, "3 H W"],
    segmentation: Segmentation,
    vocabulary: Vocabulary,
    *,
    scores: bool = True,
) -> Image.Image:
    """The image with its panoptic segments, else its instances, else its semantic map.

    Args:
        image: (3, H, W) RGB.
        segmentation: results of the image's size.
        vocabulary: the classes' names.
        scores: whether the things' scores stand behind their names.

    Raises:
        ValueError: the segmentation holds no result.
    """
    layer = _layer(segmentation)
    size = drawing_size(image.shape[1], image.shape[2])
    photograph = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    regions = _resized_regions(layer.regions, len(layer.segments), size)
    colors = segment_colors(layer.segments)
    canvas = Image.fromarray(_blend(np.asarray(_resized(photograph, size)), regions, colors, layer))
    _draw_names(canvas, regions, layer.segments, colors, vocabulary, scores=scores)
    return with_legend(canvas, layer.segments, vocabulary)


def _layer(segmentation: Segmentation) -> _Layer:
    if segmentation.panoptic is not None:
        segments = segmentation.segments
        table = np.zeros(max((s.id for s in segments), default=0) + 1, dtype=np.int64)
        table[[s.id for s in segments]] = range(1, len(segments) + 1)
        return _Layer(table[segmentation.panoptic.cpu().numpy()], segments)
    if segmentation.instances is not None:
        return _instance_layer(segmentation.instances)
    if segmentation.semantic is not None:
        return _semantic_layer(segmentation.semantic)
    raise ValueError("the segmentation holds no result to draw")


def _instance_layer(instances: Instances) -> _Layer:
    count = int((instances.scores >= MIN_INSTANCE_SCORE).sum())
    masks = instances.masks.cpu().numpy()
    regions = np.zeros(masks.shape[1:], dtype=np.int64)
    for row in reversed(range(count)):  # the best one on top
        regions[masks[row]] = row + 1
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:].tolist()
    rows = zip(instances.labels.tolist(), instances.scores.tolist(), areas, strict=False)
    segments = tuple(Segment(i, label, True, score, area) for i, (label, score, area) in
                     enumerate(rows, start=1))  # fmt: skip
    return _Layer(regions, segments)


def _semantic_layer(semantic: Int[Tensor, "H W"]) -> _Layer:
    labels, regions, areas = np.unique(
        semantic.cpu().numpy(), return_inverse=True, return_counts=True
    )
    void = int(labels[0] == VOID)  # unique values ascend
    rows = zip(labels[void:].tolist(), areas[void:].tolist(), strict=True)
    segments = tuple(Segment(i, label, False, 1.0, area) for i, (label, area) in
                     enumerate(rows, start=1))  # fmt: skip
    return _Layer(regions.reshape(semantic.shape) + 1 - void, segments)


def drawing_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the drawing without its legend; small images grow by a whole factor.

    Args:
        height: the image's, in pixels.
        width: the same.
    """
    grown = min(-(-SHORTEST_SIDE // max(height, width)), _MAX_ENLARGEMENT)
    scale = max(1.0, grown) * min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    enlarged = size[0] > image.width
    return image.resize(size, Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX)


def _resized_regions(regions: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """Regions at the drawing's size; enlarged ones have smooth outlines, not stairs."""
    height, width = regions.shape
    if size == (width, height):
        return regions
    if size[0] < width or count > _SMOOTHED:
        image = Image.fromarray(regions.astype(np.int32))
        return np.asarray(image.resize(size, Image.Resampling.NEAREST))
    best = np.zeros((size[1], size[0]), dtype=np.uint8)
    winner = np.zeros((size[1], size[0]), dtype=np.int64)
    for region in range(count + 1):
        mask = Image.fromarray(np.where(regions == region, 255, 0).astype(np.uint8))
        soft = mask.filter(ImageFilter.GaussianBlur(0.7))
        share = np.asarray(soft.resize(size, Image.Resampling.BICUBIC))
        better = share > best
        best[better], winner[better] = share[better], region
    return winner


def _blend(
    photograph: np.ndarray, regions: np.ndarray, colors: np.ndarray, layer: _Layer
) -> np.ndarray:
    """Colour over the photograph, lighter over stuff; what is nothing fades; white outlines."""
    weights = np.array([0.35, *(0.58 if s.is_thing else 0.50 for s in layer.segments)])
    paints = np.concatenate([[BACKGROUND], colors])
    keep = np.rint((1 - weights) * 256).astype(np.uint16)[regions][..., None]
    painted = np.rint(weights[:, None] * paints * 256).astype(np.uint16)[regions]
    blended: np.ndarray = ((photograph * keep + painted) >> 8).astype(np.uint8)
    is_thing = np.array([False, *(segment.is_thing for segment in layer.segments)])
    edge = _edges(regions)
    blended[edge] = (blended[edge] * 0.55).astype(np.uint8)
    thing_edge = _edges(np.where(is_thing[regions], regions, 0)) & is_thing[regions]
    blended[thing_edge] = 255
    return blended


def _edges(regions: np.ndarray) -> np.ndarray:
    """True on both sides of every border."""
    edge = np.zeros(regions.shape, dtype=bool)
    down, right = regions[1:] != regions[:-1], regions[:, 1:] != regions[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _draw_names(
    canvas: Image.Image,
    regions: np.ndarray,
    segments: Sequence[Segment],
    colors: np.ndarray,
    vocabulary: Vocabulary,
    *,
    scores: bool,
) -> None:
    """A name in each segment where it covers the label best; things first, then by area."""
    draw, letters = ImageDraw.Draw(canvas), font(FONT_SIZE)
    free = np.ones(regions.shape, dtype=bool)
    order = sorted(
        range(len(segments)), key=lambda i: (not segments[i].is_thing, -segments[i].area)
    )
    for row in order:
        segment = segments[row]
        text = short(vocabulary.names[segment.label], 22)
        if segment.is_thing and scores:
            text += f" {round(100 * segment.score)}"
        width, height = int(letters.getlength(text)) + 12, FONT_SIZE + 7
        place = _place(regions == row + 1, free, width, height)
        if place is None:
            continue
        left, top = place
        free[top : top + height, left : left + width] = False
        box = (left, top, left + width - 1, top + height - 1)
        draw.rounded_rectangle(box, 5, fill=tuple(int(c * 0.28) for c in colors[row]))
        draw.text((left + 6, top + height / 2), text, fill="white", font=letters, anchor="lm")


def _place(mask: np.ndarray, free: np.ndarray, width: int, height: int) -> tuple[int, int] | None:
    """The label's left and top, found at a quarter of the size; None where there is no room."""
    full_height, full_width = mask.shape
    if width >= full_width or height >= full_height or mask.sum() < width * height // 2:
        return None  # no name may hide what it names
    radius = (width / 8, height / 8)
    cover = _box_blurred(mask[::4, ::4], radius).astype(np.float32)
    cover += 0.3 * _box_blurred(mask[::4, ::4], (radius[0] * 3, radius[0] * 3))  # to the middle
    taken = _box_blurred(~free[::4, ::4], (radius[0] * 2, radius[1] * 2))
    score = np.where(mask[::4, ::4] & (taken == 0), cover, 0)
    if not score.any():
        return None
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    left = min(max(0, int(column) * 4 - width // 2), full_width - width)
    top = min(max(0, int(row) * 4 - height // 2), full_height - height)
    return (left, top) if free[top : top + height, left : left + width].all() else None


def _box_blurred(mask: np.ndarray, radius: tuple[float, float]) -> np.ndarray:
    """The share of a window around each pixel that is inside, 0 to 255; beyond the image is not."""
    framed = np.pad(np.where(mask, 255, 0).astype(np.uint8), 1)
    return np.asarray(Image.fromarray(framed).filter(ImageFilter.BoxBlur(radius)))[1:-1, 1:-1]
