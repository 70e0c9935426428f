"""`ovseg demo`: the model in the box on the images that ship with the package."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.checkpoints.catalogue import TINY_NAME
from ovseg_cli.datasets.shapes.scene import draw_scene
from ovseg_cli.datasets.shapes.splits import SPLITS
from ovseg_cli.errors import InputError
from ovseg_cli.storage import writing

from .predict import Record, predict_command

SAMPLES = Path(__file__).parent.parent / "assets" / "demo"
STREAM = 9_000_001  # apart from the seeds of every split
SEEDS = (1, 5, 7, 8, 19, 20)
NEXT_LABELS = "yellow wheel,blue cup/mug,red star,key,grass,water"


@dataclass(frozen=True)
class DemoImage:
    """What was found in an image, and the drawing of it."""

    name: str
    found: str
    overlay: Path


@dataclass(frozen=True)
class DemoResult:
    """The demo's table, the command to try next, and what to know about the model."""

    images: tuple[DemoImage, ...]
    command: str
    notice: str


def demo(folder: Path = Path("ovseg-demo")) -> DemoResult:
    """Segments the sample images with the synthetic set's words.

    Args:
        folder: gets the images and, beside them, overlays, panoptic maps and JSON; those of an
            earlier demo are replaced.

    Raises:
        StorageError: no space left, or the folder cannot be written.
        InputError: the sample images are not in this installation.
    """
    samples = sorted(SAMPLES.glob("*.png"))
    if not samples:
        raise InputError(f"{SAMPLES}: the sample images are missing; install ovseg again")
    records: list[Record] = []
    notices: list[str] = []
    result = predict_command(
        [str(path) for path in samples],
        None,
        model=TINY_NAME,
        folder=folder,
        overwrite=True,
        on_notice=notices.append,
        on_record=records.append,
    )
    error = result.error()
    if error is not None:
        raise error
    for path in samples:
        _copy(path, folder / "images" / path.name)
    images = shlex.quote(str(folder / "images"))
    command = f'ovseg predict {images} --model {TINY_NAME} --labels "{NEXT_LABELS}"'
    return DemoResult(tuple(_row(record) for record in records), command, notices[-1])


def write_samples(folder: Path = SAMPLES) -> None:
    """Draws the sample images anew: scenes of the synthetic world from fixed seeds.

    Args:
        folder: where; by default the package's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(sample_scenes(), start=1):
        Image.fromarray(pixels).save(folder / f"scene-{number}.png", optimize=True)


def sample_scenes() -> list[np.ndarray]:
    """The pixels of the sample images, (H, W, 3) uint8 each, laid out as the test split is."""
    (layout,) = [split.layout for split in SPLITS if split.name == "test"]
    return [
        draw_scene(np.random.default_rng((STREAM, seed)), layout, allow_held_out=True).image
        for seed in SEEDS
    ]


def _copy(source: Path, target: Path) -> None:
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)


def _row(record: Record) -> DemoImage:
    names = [entry["label"] for entry in record["segments"]]
    counts = {name: names.count(name) for name in names}
    found = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
    return DemoImage(
        Path(record["source"]).name, found or "nothing", Path(record["files"]["overlay"])
    )
