"""Tiny copies of the official layouts of datasets, and what recipes read of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.recipe import load_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.check_dataset import check_dataset
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.targets import target_dataset

SIZE = (6, 8)  # height, width


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """A grey photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 150)).save(path)
    return path


def png(path: Path, values: np.ndarray) -> Path:
    """A map, of 8 or 16 bits or in RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def columns(*values: int, kind: str = "uint8") -> np.ndarray:
    """A map with a value a column, the last one in all that are left."""
    filled = [*values, *[values[-1]] * (SIZE[1] - len(values))]
    return np.tile(np.array(filled, dtype=kind), (SIZE[0], 1))


def rgb(red: np.ndarray, green: np.ndarray) -> np.ndarray:
    """A map with two numbers a pixel."""
    return np.stack([red, green, np.zeros_like(red)], axis=-1)


def read_as_target(recipe: str, name: str, data: Path, monkeypatch):
    """The dataset as `evaluate --recipe RECIPE --target NAME` reads it."""
    monkeypatch.setenv("OVSEG_DATA", str(data))
    return target_dataset(Settings(Run(data / "run"), load_recipe(recipe)), name)


def checked(name: str, data: Path) -> list[tuple[str, int, int]]:
    """What `ovseg datasets check NAME` counts: a part's name, its images and annotations."""
    parts = check_dataset(name, data=data, workers=1)
    return [(part.name, part.images, part.annotations) for part in parts]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that originals stay as they are."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
