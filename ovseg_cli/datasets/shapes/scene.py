"""Scenes: things drawn over one or two stuff regions, with the visible mask of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classes import (
    BASE_STUFF,
    BASE_THINGS,
    COLORS,
    NOVEL_STUFF,
    NOVEL_THINGS,
    TEXTURES,
    is_held_out,
)
from .stuff import stuff_texture
from .things import DRAWINGS

Floats = NDArray[np.floating[Any]]
MIN_VISIBLE = 0.4
MIN_STUFF = 0.01


@dataclass(frozen=True)
class Layout:
    """How the scenes of a kind are laid out.

    Attributes:
        size: side of the square image in pixels.
        things: smallest and largest number of things.
        radius: smallest and largest radius of a thing in pixels.
        spread: how far from the middle a thing's centre may lie, 1 is at the border.
        bare: share of images without things.
        two_stuffs: share of images with two stuff regions.
        plain: True for a background of one colour, which is no stuff.
    """

    size: int
    things: tuple[int, int]
    radius: tuple[float, float] = (13.0, 25.0)
    spread: float = 0.9
    bare: float = 0.0
    two_stuffs: float = 0.0
    plain: bool = False


@dataclass(frozen=True)
class Region:
    """A visible thing or stuff region.

    Attributes:
        name: the class.
        mask: (size, size) True where it is visible.
        color: a thing's colour word, "" for stuff.
        texture: a thing's texture word, "" for stuff.
        size: "small", "large" or "".
        center: (x, y) of the thing as drawn, in pixels.
    """

    name: str
    mask: NDArray[np.bool_]
    color: str = ""
    texture: str = ""
    size: str = ""
    center: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """An image (size, size, 3) uint8 RGB with its things, later ones in front, and its stuff."""

    image: NDArray[np.uint8]
    things: tuple[Region, ...]
    stuff: tuple[Region, ...]


@dataclass(frozen=True)
class _Stamp:
    name: str
    color: str
    texture: str
    radius: float
    alpha: Floats
    paint: Floats


def _composition(rng: np.random.Generator, allow_held_out: bool) -> tuple[str, str]:
    things = BASE_THINGS + NOVEL_THINGS
    while True:
        thing, color = things[rng.integers(len(things))], list(COLORS)[rng.integers(len(COLORS))]
        if allow_held_out or not is_held_out(color, thing):
            return thing, color


def _texture_factor(texture: str, x: Floats, y: Floats, period: float) -> NDArray[np.bool_]:
    if texture == "striped":
        return np.broadcast_to(y % period < period / 2, np.broadcast_shapes(x.shape, y.shape))
    if texture == "spotted":
        return (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < period**2 / 10
    if texture == "checked":
        return (x % period < period / 2) ^ (y % period < period / 2)
    return np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)


def _halved(values: Floats) -> Floats:
    half = values.shape[0] // 2
    return values.reshape(half, 2, half, 2, *values.shape[2:]).mean(axis=(1, 3), dtype=np.float32)


def _stamp(rng: np.random.Generator, radius: float, allow_held_out: bool) -> _Stamp:
    name, color = _composition(rng, allow_held_out)
    texture = TEXTURES[rng.choice(4, p=(0.55, 0.15, 0.15, 0.15))]
    half = int(np.ceil(1.25 * radius)) + 1
    axis = (np.arange(4 * half, dtype=np.float32) - (2 * half - 0.5)) / np.float32(2 * radius)
    tilt = np.float32(rng.uniform(-0.35, 0.35))
    x = axis[None, :] * np.cos(tilt) + axis[:, None] * np.sin(tilt)
    y = axis[:, None] * np.cos(tilt) - axis[None, :] * np.sin(tilt)
    body, mark = DRAWINGS[name](x, y, float(rng.random()))
    main = np.asarray(COLORS[color], np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    light = main.mean() > 110
    second = main * 0.72 if light else main * 0.7 + 55
    pattern = _texture_factor(texture, x * radius, y * radius, rng.uniform(5.0, 7.0))
    paint = np.where(pattern[..., None], second, main)
    paint = np.where(mark[..., None], np.float32(20 if light else 235), paint)
    shade = 1.0 - 0.12 * (axis[None, :] + axis[:, None])
    paint = np.clip(paint * shade[..., None], 0, 255).astype(np.float32)
    alpha = body.astype(np.float32)
    return _Stamp(name, color, texture, radius, _halved(alpha), _halved(paint))


def _plain(rng: np.random.Generator, size: int) -> Floats:
    color = rng.uniform(30, 225, 3).astype(np.float32)
    return np.broadcast_to(color, (size, size, 3)).copy()


def _backdrop(
    rng: np.random.Generator, layout: Layout
) -> tuple[Floats, list[tuple[str, NDArray[np.bool_]]]]:
    size = layout.size
    if layout.plain:
        return _plain(rng, size), []
    names = BASE_STUFF + NOVEL_STUFF
    first, second = rng.choice(len(names), 2, replace=False)
    canvas = stuff_texture(names[first], rng, size)
    if rng.random() >= layout.two_stuffs:
        return canvas, [(names[first], np.ones((size, size), bool))]
    along = np.arange(size, dtype=np.float32)
    border = size * rng.uniform(0.3, 0.7) + 0.04 * size * np.sin(along / rng.uniform(8, 16))
    border = border + (along - size / 2) * rng.uniform(-0.3, 0.3)
    below = along[:, None] > border[None, :]
    below = below.T if rng.random() < 0.3 else below
    canvas = np.where(below[..., None], stuff_texture(names[second], rng, size), canvas)
    return canvas, [(names[first], ~below), (names[second], below)]


def _window(
    size: int, half: int, cx: int, cy: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    left, top = max(0, cx - half), max(0, cy - half)
    right, bottom = min(size, cx + half), min(size, cy + half)
    on_canvas = (slice(top, bottom), slice(left, right))
    offset_x, offset_y = half - cx, half - cy
    on_stamp = (
        slice(top + offset_y, bottom + offset_y),
        slice(left + offset_x, right + offset_x),
    )
    return on_canvas, on_stamp


class _Pile:
    """Things put down so far: masks of what is visible, and how much each one covers when whole."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.owner = np.zeros((size, size), np.int32)
        self.whole: list[int] = []

    def fits(self, stamp: _Stamp, cx: int, cy: int) -> bool:
        canvas, local = _window(self.size, stamp.alpha.shape[0] // 2, cx, cy)
        inside = stamp.alpha[local] > 0.5
        if inside.sum() < MIN_VISIBLE * (stamp.alpha > 0.5).sum():
            return False
        owner = self.owner.copy()
        owner[canvas][inside] = len(self.whole) + 1
        left = np.bincount(owner.ravel(), minlength=len(self.whole) + 2)[1:-1]
        return all(n >= MIN_VISIBLE * w for n, w in zip(left, self.whole, strict=True))

    def put(self, stamp: _Stamp, cx: int, cy: int) -> None:
        canvas, local = _window(self.size, stamp.alpha.shape[0] // 2, cx, cy)
        self.whole.append(int((stamp.alpha > 0.5).sum()))
        self.owner[canvas][stamp.alpha[local] > 0.5] = len(self.whole)


def _size_word(radius: float, layout: Layout) -> str:
    low, high = layout.radius
    part = (radius - low) / (high - low)
    return "small" if part < 0.25 else "large" if part > 0.75 else ""


def draw_scene(rng: np.random.Generator, layout: Layout, *, allow_held_out: bool) -> Scene:
    """A scene of the layout: every thing keeps at least 40 % of its area visible.

    Args:
        rng: the only source of chance.
        layout: size, number and radius of things, kind of background.
        allow_held_out: whether held-out compositions may occur.
    """
    size = layout.size
    canvas, stuff = _backdrop(rng, layout)
    wanted = int(rng.integers(layout.things[0], layout.things[1] + 1))
    if layout.bare and rng.random() < layout.bare:
        wanted = 0
    pile = _Pile(size)
    placed: list[tuple[_Stamp, int, int]] = []
    reach = layout.spread * size / 2
    while len(placed) < wanted:
        stamp = _stamp(rng, float(rng.uniform(*layout.radius)), allow_held_out)
        for _ in range(8):
            cx, cy = (int(v) for v in np.round(size / 2 + rng.uniform(-reach, reach, 2)))
            if pile.fits(stamp, cx, cy):
                pile.put(stamp, cx, cy)
                placed.append((stamp, cx, cy))
                break
        else:
            if len(placed) >= layout.things[0]:
                break
    for stamp, cx, cy in placed:
        where, local = _window(size, stamp.alpha.shape[0] // 2, cx, cy)
        alpha = stamp.alpha[local][..., None]
        canvas[where] = canvas[where] * (1 - alpha) + stamp.paint[local] * alpha
    canvas = canvas + rng.normal(0, 4, canvas.shape).astype(np.float32)
    things = tuple(
        Region(
            stamp.name,
            pile.owner == k,
            stamp.color,
            stamp.texture,
            _size_word(stamp.radius, layout),
            (float(cx), float(cy)),
        )
        for k, (stamp, cx, cy) in enumerate(placed, start=1)
    )
    regions = ((name, area & (pile.owner == 0)) for name, area in stuff)
    visible = tuple(
        Region(name, area) for name, area in regions if area.sum() > MIN_STUFF * size**2
    )
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), things, visible)
