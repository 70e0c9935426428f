"""What a user waits for: the help, one image, a folder of a hundred.

    python tests/benchmarks/predict.py [--model tiny] [--repeats 3]

Each in a process of its own, on one thread; medians of CPU seconds, user and system, and of wall
seconds. One image is told beside `import open_clip` in the same round. The folder is scenes of the
synthetic world; start-up (the one-image command) is subtracted.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image

from ovseg_cli.datasets.shapes.scene import draw_scene
from ovseg_cli.datasets.shapes.splits import SPLITS

IMAGES = 100
OPEN_CLIP = "import ovseg_cli.torchvision_ops, open_clip"


def seconds(*arguments: str) -> tuple[float, float]:
    """(CPU, wall) of a Python process with the package on its path."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.perf_counter() - start


def write_scenes(folder: Path) -> None:
    """The hundred images; they are in no split."""
    (layout,) = [split.layout for split in SPLITS if split.name == "test"]
    for number in range(IMAGES):
        rng = np.random.default_rng((9_000_002, number))
        pixels = draw_scene(rng, layout, allow_held_out=True).image
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def rounds(model: str, repeats: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """All measurements, interleaved."""
    predict = ["-m", "ovseg_cli", "predict", "--model", model, "--labels", "shapes"]
    output = ["-o", str(folder / "out"), "--overwrite"]
    images = folder / "images"
    images.mkdir()
    write_scenes(images)
    found: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("help", "open_clip", "one image", "folder")
    }
    for _ in range(repeats):
        found["help"].append(seconds("-m", "ovseg_cli", "--help"))
        found["open_clip"].append(seconds("-c", OPEN_CLIP))
        found["one image"].append(seconds(*predict, str(images / "000.png"), *output))
        found["folder"].append(seconds(*predict, str(images), *output))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rounds(options.model, options.repeats, Path(folder))
    median = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in found.items()
    }
    over = [
        one[0] - base[0] for one, base in zip(found["one image"], found["open_clip"], strict=True)
    ]
    pairs = list(zip(found["folder"], found["one image"], strict=True))
    figures = {
        "help_cpu_seconds": median["help"][0],
        "help_wall_seconds": median["help"][1],
        "open_clip_cpu_seconds": median["open_clip"][0],
        "one_image_cpu_seconds_over_open_clip": statistics.median(over),
        "folder_cpu_seconds_per_image": statistics.median(a[0] - b[0] for a, b in pairs)
        / (IMAGES - 1),
        "folder_wall_seconds_per_image": statistics.median(a[1] - b[1] for a, b in pairs)
        / (IMAGES - 1),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
