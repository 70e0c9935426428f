"""Procedural textures of the stuff classes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "grass": ((80, 140, 60), (120, 150, 70), (60, 120, 90)),
    "water": ((60, 110, 180), (60, 150, 170), (90, 120, 150)),
    "sand": ((215, 190, 140), (200, 170, 150), (190, 185, 160)),
    "brick": ((165, 80, 65), (150, 120, 100), (130, 95, 110)),
    "wood": ((160, 115, 70), (120, 85, 60), (175, 145, 110)),
    "carpet": ((140, 70, 120), (160, 60, 70), (70, 80, 140)),
    "lava": ((200, 70, 30), (215, 110, 40), (190, 50, 70)),
    "tiles": ((150, 190, 190), (190, 180, 200), (170, 200, 150)),
}


def _smooth_noise(rng: np.random.Generator, size: int, cell: int) -> Field:
    knots = rng.random((size // cell + 2, size // cell + 2), dtype=np.float32)
    at = np.arange(size, dtype=np.float32) / cell
    low, part = at.astype(int), at % 1.0
    rows = knots[low] * (1 - part)[:, None] + knots[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _grid(size: int) -> tuple[Field, Field]:
    axis = np.arange(size, dtype=np.float32)
    return axis[:, None], axis[None, :]


def _grass(rng: np.random.Generator, size: int) -> Field:
    noise = rng.random((size + 5, size), dtype=np.float32)
    blades = np.asarray(sum(noise[k : k + size] for k in range(6))) / 6
    return (blades - 0.5) * 2.6


def _water(rng: np.random.Generator, size: int) -> Field:
    y, x = _grid(size)
    period, shift = rng.uniform(8, 12), rng.uniform(0, 6.3)
    bend = 2.2 * np.sin(x / rng.uniform(4, 6) + shift)
    return 0.6 * np.sin((y + bend) * np.float32(2 * np.pi / period) + shift)


def _sand(rng: np.random.Generator, size: int) -> Field:
    grains = rng.random((size, size), dtype=np.float32)
    return np.where(grains > 0.9, -0.9, (grains - 0.45) * 0.7)


def _brick(rng: np.random.Generator, size: int) -> Field:
    y, x = _grid(size)
    height, width = int(rng.integers(8, 11)), int(rng.integers(15, 20))
    y, x = y + rng.integers(height), x + rng.integers(width)
    row = y // height
    joint = (y % height < 2) | ((x + (row % 2) * (width // 2)) % width < 2)
    return np.where(joint, 1.0, -0.2 + 0.3 * np.sin(7.1 * row + 3.3 * (x // width)))


def _wood(rng: np.random.Generator, size: int) -> Field:
    y, x = _grid(size)
    plank = int(rng.integers(18, 26))
    x = x + rng.integers(plank)
    grain = np.sin((x + 5 * _smooth_noise(rng, size, 16)) * 1.9 + y * 0.05)
    return np.where(x % plank < 2, -1.1, 0.35 * grain)


def _carpet(rng: np.random.Generator, size: int) -> Field:
    y, x = _grid(size)
    period = rng.uniform(11, 15)
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    return np.where(((x + y) % period < period / 3) ^ ((x - y) % period < period / 3), 0.7, -0.5)


def _lava(rng: np.random.Generator, size: int) -> Field:
    blobs = _smooth_noise(rng, size, 10)
    return np.where(np.abs(blobs - 0.5) < 0.09, 1.2, -1.3 + 0.8 * blobs)


def _tiles(rng: np.random.Generator, size: int) -> Field:
    y, x = _grid(size)
    side = int(rng.integers(14, 19))
    y, x = y + rng.integers(side), x + rng.integers(side)
    return np.where(
        (y % side < 2) | (x % side < 2), -1.2, 0.25 - 0.3 * ((x // side + y // side) % 2)
    )


_FIELDS: dict[str, Callable[[np.random.Generator, int], Field]] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "brick": _brick,
    "wood": _wood,
    "carpet": _carpet,
    "lava": _lava,
    "tiles": _tiles,
}


def stuff_texture(name: str, rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """(size, size, 3) RGB from 0 to 255 of one stuff class, in one of its palettes."""
    palette = PALETTES[name]
    color = np.asarray(palette[rng.integers(len(palette))], np.float32)
    color = color * rng.uniform(0.85, 1.15) + rng.normal(0, 6, 3).astype(np.float32)
    field = _FIELDS[name](rng, size).astype(np.float32)
    return np.clip(color + 45 * field[..., None], 0, 255).astype(np.float32)
