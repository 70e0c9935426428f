"""Where the time of a folder of images goes, and whether memory grows with them.

    python tests/benchmarks/predict_folder.py [--model tiny] [--images 200] [--labels shapes]

Scenes of the synthetic world at 640x480, one thread; CPU seconds an image of each part by the
profiler, and the process's peak memory after a tenth of the images and at the end.
"""

import argparse
import cProfile
import json
import pstats
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from PIL import Image

from ovseg_cli.datasets.shapes.scene import draw_scene
from ovseg_cli.datasets.shapes.splits import SPLITS
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.model_choice import choose_model
from ovseg_cli.stages.predict import PredictOptions, predict
from ovseg_cli.vocabulary import parse_labels

SIZE = (640, 480)
PARTS = {
    "reading": ("image_sources.py", "open_image"),
    "segmenting": ("predict_folder.py", "segment"),
    "drawing": ("overlays.py", "overlay"),
    "writing PNGs": ("writers.py", "write_png"),
}


def write_images(folder: Path, count: int) -> None:
    """JPEGs of scenes, enlarged; they are in no split."""
    (layout,) = [split.layout for split in SPLITS if split.name == "test"]
    for number in range(count):
        scene = draw_scene(np.random.default_rng((9_000_003, number)), layout, allow_held_out=True)
        enlarged = Image.fromarray(scene.image).resize(SIZE, Image.Resampling.BICUBIC)
        enlarged.save(folder / f"{number:04d}.jpg", quality=90)


def megabytes() -> int:
    """The most that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--labels", default="shapes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = Segmenter.from_run(choose_model(options.model, Path("run")).run)
    vocabulary = parse_labels(options.labels)
    segmenter.text_embeddings(vocabulary)
    peaks: list[int] = []

    def segment(image, name):
        return segmenter.predict(image, vocabulary, name=name)

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "in")
        images.mkdir()
        write_images(images, options.images)
        profile = cProfile.Profile(time.process_time)
        start, begun = megabytes(), time.perf_counter()
        profile.enable()
        predict([str(images)], vocabulary, segment, Path(folder, "out"), options=PredictOptions(),
                on_record=lambda record: peaks.append(megabytes()))  # fmt: skip
        profile.disable()
    rows = pstats.Stats(profile).stats.items()  # cumulative seconds are the fourth
    spent = {(Path(file).name, name): row[3] for (file, _, name), row in rows}
    figures = {
        "words": len(vocabulary),
        "wall_seconds_per_image": (time.perf_counter() - begun) / options.images,
        "cpu_seconds_per_image": spent["predict.py", "predict"] / options.images,
        **{part: spent[key] / options.images for part, key in PARTS.items()},
        "megabytes_before": start,
        "megabytes_after_a_tenth": peaks[options.images // 10],
        "megabytes_at_the_end": peaks[-1],
    }
    print(json.dumps({k: round(v, 4) for k, v in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
