"""Overlays: segments in colour over the image, named in place, with a legend below.

Small images are enlarged so that words can be read, large ones are reduced: a drawing is for eyes,
the exact maps are in the other files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from .structures import Instances, Segment, Segmentation, Vocabulary

SHORTEST_SIDE = 512
LONGEST_SIDE = 1280
MIN_INSTANCE_SCORE = 0.5
_MAX_ENLARGEMENT = 8
_SMOOTHED = 40  # segments whose outlines are smoothed when an image is enlarged
_BACKGROUND = (22, 23, 28)
_TEXT = (238, 239, 242)
_MUTED = (150, 153, 163)
_FONT_SIZE = 15
_LINE = 28
_MARGIN = 12
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Layer:
    """What is drawn: (H, W) region numbers from 1, 0 for nothing, and a segment for each."""

    regions: np.ndarray
    segments: tuple[Segment, ...]


def overlay(
    image: UInt8[Tensor, "3 H W"], segmentation: Segmentation, vocabulary: Vocabulary
) -> Image.Image:
    """The image with its panoptic segments, else its instances, else its semantic map.

    Args:
        image: (3, H, W) RGB.
        segmentation: results of the image's size.
        vocabulary: the classes' names.

    Raises:
        ValueError: the segmentation holds no result.
    """
    layer = _layer(segmentation)
    size = _drawing_size(image.shape[1], image.shape[2])
    photograph = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    regions = _resized_regions(layer.regions, len(layer.segments), size)
    colors = _segment_colors(layer.segments)
    canvas = Image.fromarray(_blend(np.asarray(_resized(photograph, size)), regions, colors, layer))
    _draw_names(canvas, regions, layer.segments, colors, vocabulary)
    return _with_legend(canvas, layer.segments, vocabulary)


def class_color(label: int) -> tuple[int, int, int]:
    """The colour of a class, the same everywhere; neighbours in number are far apart in hue."""
    hue = 2 * np.pi * ((0.08 + label * 0.61803398875) % 1)
    lightness = (0.72, 0.62, 0.80)[label % 3]
    return _srgb(lightness, 0.14, hue)


def _srgb(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """OKLCH (Ottosson, 2020) to sRGB, clipped."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.array(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    ).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(encoded * 255).astype(int).tolist()
    return red, green, blue


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
    rows = zip(labels.tolist(), areas.tolist(), strict=True)
    segments = tuple(Segment(i, label, False, 1.0, area) for i, (label, area) in
                     enumerate(rows, start=1))  # fmt: skip
    return _Layer(regions.reshape(semantic.shape) + 1, segments)


def _drawing_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the drawing; small images grow by a whole factor."""
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


def _segment_colors(segments: Sequence[Segment]) -> np.ndarray:
    """(S, 3) the class's colour, a little lighter or darker for each further thing of a class."""
    colors = np.zeros((len(segments), 3))
    seen: dict[int, int] = {}
    for row, segment in enumerate(segments):
        shade = (0, -0.18, 0.22, -0.32, 0.38)[seen.get(segment.label, 0) % 5]
        seen[segment.label] = seen.get(segment.label, 0) + 1
        color = np.array(class_color(segment.label), dtype=float)
        colors[row] = color * (1 + shade) if shade < 0 else color + shade * (255 - color)
    return colors.round()


def _blend(
    photograph: np.ndarray, regions: np.ndarray, colors: np.ndarray, layer: _Layer
) -> np.ndarray:
    """Colour over the photograph, lighter over stuff; what is nothing fades; white outlines."""
    weights = np.array([0.35, *(0.58 if s.is_thing else 0.50 for s in layer.segments)])
    paints = np.concatenate([[_BACKGROUND], colors])
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


@lru_cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _draw_names(
    canvas: Image.Image,
    regions: np.ndarray,
    segments: Sequence[Segment],
    colors: np.ndarray,
    vocabulary: Vocabulary,
) -> None:
    """A name in each segment where it covers the label best; things first, then by area."""
    draw, font = ImageDraw.Draw(canvas), _font(_FONT_SIZE)
    free = np.ones(regions.shape, dtype=bool)
    order = sorted(
        range(len(segments)), key=lambda i: (not segments[i].is_thing, -segments[i].area)
    )
    for row in order:
        segment = segments[row]
        text = _short(vocabulary.names[segment.label], 22)
        if segment.is_thing:
            text += f" {round(100 * segment.score)}"
        width, height = int(font.getlength(text)) + 12, _FONT_SIZE + 7
        place = _place(regions == row + 1, free, width, height)
        if place is None:
            continue
        left, top = place
        free[top : top + height, left : left + width] = False
        box = (left, top, left + width - 1, top + height - 1)
        draw.rounded_rectangle(box, 5, fill=tuple(int(c * 0.28) for c in colors[row]))
        draw.text((left + 6, top + height / 2), text, fill="white", font=font, anchor="lm")


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


def _with_legend(
    canvas: Image.Image, segments: Sequence[Segment], vocabulary: Vocabulary
) -> Image.Image:
    """The drawing on a page with a chip for each class that was found, wrapped into lines."""
    entries = _legend_entries(segments, vocabulary)
    places, lines = _flow([f"{name} {amount}" for _, name, amount in entries], canvas.width)
    page = Image.new(
        "RGB", (canvas.width, canvas.height + lines * _LINE + _MARGIN), color=_BACKGROUND
    )
    page.paste(canvas)
    draw, font = ImageDraw.Draw(page), _font(_FONT_SIZE)
    for (label, name, count), (left, line) in zip(entries, places, strict=True):
        middle = canvas.height + _MARGIN // 2 + line * _LINE + _LINE // 2
        swatch = (left, middle - 7, left + 13, middle + 6)
        draw.rounded_rectangle(swatch, 4, fill=class_color(label))
        draw.text((left + 20, middle), name, fill=_TEXT, font=font, anchor="lm")
        offset = left + 20 + font.getlength(name + " ")
        draw.text((offset, middle), count, fill=_MUTED, font=font, anchor="lm")
    if not entries:
        middle = canvas.height + _MARGIN // 2 + _LINE // 2
        draw.text((_MARGIN, middle), "nothing found", fill=_MUTED, font=font, anchor="lm")
    return page


def _legend_entries(
    segments: Sequence[Segment], vocabulary: Vocabulary
) -> list[tuple[int, str, str]]:
    """(class, name, count or share of the area), things first, the most frequent ones first."""
    total = sum(segment.area for segment in segments) or 1
    things: dict[int, int] = {}
    stuff: dict[int, int] = {}
    for segment in segments:
        group, amount = (things, 1) if segment.is_thing else (stuff, segment.area)
        group[segment.label] = group.get(segment.label, 0) + amount
    rows = [(label, f"x{count}" if count > 1 else "") for label, count in _by_amount(things)]
    rows += [(label, f"{max(1, 100 * area // total)} %") for label, area in _by_amount(stuff)]
    return [(label, _short(vocabulary.names[label], 28), amount) for label, amount in rows]


def _by_amount(amounts: dict[int, int]) -> list[tuple[int, int]]:
    return sorted(amounts.items(), key=lambda item: (-item[1], item[0]))


def _flow(texts: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """(left, line) of every chip, and the number of lines."""
    places, left, line = [], _MARGIN, 0
    for text in texts:
        needed = int(_font(_FONT_SIZE).getlength(text)) + 42
        if left > _MARGIN and left + needed > width:
            left, line = _MARGIN, line + 1
        places.append((left, line))
        left += needed
    return places, line + 1


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
