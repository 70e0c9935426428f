"""Outlines and inner marks of the things, as predicates on unit coordinates.

x grows to the right and y downwards; a thing fits into the unit disc, squares a little more.
`phase` (0 to 1) varies a thing within its class. Several classes share an outline and differ by
their marks alone: discs (ball, wheel, target, clock), squares (dice, window, crate) and triangles
(tent, pizza).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
Area = NDArray[np.bool_]
Drawing = tuple[Area, Area]


def _disc(x: Grid, y: Grid, radius: float, cx: float = 0.0, cy: float = 0.0) -> Area:
    return (x - cx) ** 2 + (y - cy) ** 2 <= radius * radius


def _box(x: Grid, y: Grid, left: float, top: float, right: float, bottom: float) -> Area:
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def _nothing(x: Grid) -> Area:
    return np.zeros(x.shape, bool)


def _ray(x: Grid, y: Grid, angle: float, length: float, width: float) -> Area:
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along >= -width) & (along <= length) & (np.abs(across) <= width)


def _triangle(x: Grid, y: Grid) -> Area:
    return (y <= 0.8) & (np.abs(x) <= (y + 0.95) * 0.57)


def _ball(x: Grid, y: Grid, phase: float) -> Drawing:
    return _disc(x, y, 1.0), _nothing(x)


def _wheel(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = ~_disc(x, y, 0.8) | _disc(x, y, 0.24)
    for k in range(6):
        mark |= _ray(x, y, (k + phase) * np.pi / 3, 1.0, 0.09)
    return _disc(x, y, 1.0), mark


def _target(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = (_disc(x, y, 0.75) & ~_disc(x, y, 0.5)) | _disc(x, y, 0.25)
    return _disc(x, y, 1.0), mark


def _clock(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = _ray(x, y, 2 * np.pi * phase, 0.75, 0.09)
    mark |= _ray(x, y, 2 * np.pi * (phase * 12 % 1), 0.5, 0.13)
    for k in range(4):
        mark |= _disc(x, y, 0.13, 0.8 * np.cos(k * np.pi / 2), 0.8 * np.sin(k * np.pi / 2))
    return _disc(x, y, 1.0), mark


def _square(x: Grid, y: Grid) -> Area:
    return _box(x, y, -0.85, -0.85, 0.85, 0.85)


def _dice(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = _disc(x, y, 0.19) if phase < 0.5 else _nothing(x)
    for cx in (-0.5, 0.5):
        for cy in (-0.5, 0.5):
            mark |= _disc(x, y, 0.19, cx, cy)
    return _square(x, y), mark


def _window(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = ~_box(x, y, -0.68, -0.68, 0.68, 0.68) | (np.abs(x) < 0.1) | (np.abs(y) < 0.1)
    return _square(x, y), mark


def _crate(x: Grid, y: Grid, phase: float) -> Drawing:
    return _square(x, y), (np.abs(x - y) < 0.2) | (np.abs(x + y) < 0.2)


def _tent(x: Grid, y: Grid, phase: float) -> Drawing:
    return _triangle(x, y), (y > -0.25) & (np.abs(x) <= (y + 0.25) * 0.33)


def _pizza(x: Grid, y: Grid, phase: float) -> Drawing:
    mark = y > 0.58
    for cx, cy in ((0.0, -0.3), (-0.3, 0.25), (0.3, 0.2)):
        mark |= _disc(x, y, 0.17, cx, cy)
    return _triangle(x, y), mark


def _star(x: Grid, y: Grid, phase: float) -> Drawing:
    radius, fifth = np.hypot(x, y), 2 * np.pi / 5
    fold = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    inside = 0.247 * (radius * np.cos(fold) - 1.05) + 0.66 * radius * np.sin(fold)
    return inside <= 0, inside + 0.14 <= 0


def _heart(x: Grid, y: Grid, phase: float) -> Drawing:
    u, v = 1.18 * x, 0.12 - 1.18 * y
    crack = np.abs(x - 0.2 + 0.4 * np.abs((2.5 * y) % 2 - 1)) < 0.12
    return (u * u + v * v - 1) ** 3 - u * u * v**3 <= 0, crack


def _arrow(x: Grid, y: Grid, phase: float) -> Drawing:
    x = x if phase < 0.5 else -x
    shaft = _box(x, y, -1.0, -0.28, 0.15, 0.28)
    head = (x >= 0.0) & (np.abs(y) <= 0.9 * (1 - x))
    return shaft | head, (x + np.abs(y) + 1.0) % 0.5 < 0.18


def _house(x: Grid, y: Grid, phase: float) -> Drawing:
    roof = (y >= -1.0) & (y <= -0.1) & (np.abs(x) <= (y + 1.0) * 1.1)
    side = 1.0 if phase < 0.5 else -1.0
    mark = _box(side * x, y, -0.5, 0.2, -0.1, 0.9) | _box(side * x, y, 0.15, 0.15, 0.5, 0.5)
    return roof | _box(x, y, -0.75, -0.1, 0.75, 0.9), mark


def _cup(x: Grid, y: Grid, phase: float) -> Drawing:
    x = x if phase < 0.5 else -x
    bowl = (np.abs(y) <= 0.85) & (np.abs(x + 0.2) <= 0.58 - 0.12 * y)
    handle = _disc(x, y, 0.5, 0.45, -0.05) & ~_disc(x, y, 0.27, 0.45, -0.05) & (x > 0.2)
    return bowl | handle, bowl & (y < -0.5)


def _ladder(x: Grid, y: Grid, phase: float) -> Drawing:
    rails = (np.abs(x) >= 0.36) & (np.abs(x) <= 0.62) & (np.abs(y) <= 1.0)
    rungs = (np.abs(x) <= 0.5) & (np.abs(y) <= 0.95) & ((y + 1.0 + 0.4 * phase) % 0.5 < 0.2)
    return rails | rungs, rungs & ~rails


def _snake(x: Grid, y: Grid, phase: float) -> Drawing:
    side = 1.0 if phase < 0.5 else -1.0
    spine = 0.45 * side * np.sin(4.2 * y)
    body = (np.abs(x - spine) <= 0.38) & (np.abs(y) <= 0.95)
    return body, (y % 0.38 < 0.15) & (y > -0.6)


def _key(x: Grid, y: Grid, phase: float) -> Drawing:
    x = x if phase < 0.5 else -x
    ring = _disc(x, y, 0.52, -0.5) & ~_disc(x, y, 0.24, -0.5)
    shaft = _box(x, y, -0.05, -0.14, 1.0, 0.14)
    teeth = _box(x, y, 0.4, 0.0, 0.6, 0.5) | _box(x, y, 0.78, 0.0, 1.0, 0.5)
    return ring | shaft | teeth, ring & ~_disc(x, y, 0.4, -0.5)


def _flower(x: Grid, y: Grid, phase: float) -> Drawing:
    petals = np.hypot(x, y) <= 0.68 + 0.32 * np.cos(6 * np.arctan2(y, x))
    return petals | _disc(x, y, 0.35), _disc(x, y, 0.3)


def _butterfly(x: Grid, y: Grid, phase: float) -> Drawing:
    across = np.abs(x)
    wings = _disc(across, y, 0.5, 0.52, -0.35) | _disc(across, y, 0.37, 0.42, 0.5)
    trunk = (across <= 0.12) & (np.abs(y) <= 0.8)
    return wings | trunk, trunk | _disc(across, y, 0.2, 0.58, -0.38)


def _umbrella(x: Grid, y: Grid, phase: float) -> Drawing:
    canopy = _disc(x, y, 1.0) & (y <= 0.05 - 0.18 * np.abs(np.sin(1.5 * np.pi * x)))
    stick = _box(x, y, -0.1, -0.1, 0.1, 0.85) | _box(x, y, -0.1, 0.7, 0.42, 0.9)
    ribs = np.abs(np.abs(x) - 0.33 * (y + 1.0)) < 0.07
    return canopy | stick, canopy & ribs


DRAWINGS: dict[str, Callable[[Grid, Grid, float], Drawing]] = {
    "ball": _ball,
    "wheel": _wheel,
    "target": _target,
    "clock": _clock,
    "dice": _dice,
    "window": _window,
    "crate": _crate,
    "tent": _tent,
    "pizza": _pizza,
    "star": _star,
    "heart": _heart,
    "arrow": _arrow,
    "house": _house,
    "cup": _cup,
    "ladder": _ladder,
    "snake": _snake,
    "key": _key,
    "flower": _flower,
    "butterfly": _butterfly,
    "umbrella": _umbrella,
}
