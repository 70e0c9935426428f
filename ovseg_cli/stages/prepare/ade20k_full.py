"""ADE20K with all its names, ADE20K_2021_17_01: label maps of the 847 frequent classes.

images/ADE/<split>/**/<name>.jpg with <name>_seg.png, whose red and green channels say the object:
red // 10 * 256 + green. `index_ade20k.pkl`, a pickle, is not needed and not read.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import VOID, check_size, read_values, write_map
from ovseg_cli.stages.prepare.sources import Download, Prepared, files_in, required
from ovseg_cli.stages.prepare.work import Job, link_or_copy, make_files
from ovseg_cli.storage import writing

FOLDER = "ADE20K_2021_17_01"
SPLITS = ("validation", "training")
SHORT_SIDE = 512
_QUALITY = 95
_PAGE = "https://ade20k.csail.mit.edu/request_data"
_ARCHIVE = "ADE20K_2021_17_01.zip"
_NUMBERS = Path(__file__).parent / "ade20k_847_numbers.json"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Makes images_detectron2/ and annotations_detectron2/, with shorter sides of at most 512.

    So they are scored by MasQCLIP, FC-CLIP, MAFT and OVSeg: images shrunk bilinearly, maps to the
    nearest pixel.

    Args:
        folder: ADE20K_2021_17_01.
        splits: of `SPLITS`.
        workers: processes.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    for split in splits:
        source = required(folder, Download(f"images/ADE/{split}", _PAGE, _ARCHIVE, ".."))
        images = files_in(source, "**/*.jpg", _ARCHIVE)
        jobs = [
            Job(
                (image, image.with_name(f"{image.stem}_seg.png")),
                (
                    folder / "annotations_detectron2" / split / f"{image.stem}.tif",
                    folder / "images_detectron2" / split / image.name,
                ),
            )
            for image in images
        ]
        make_files(jobs, convert_scene, title=f"{FOLDER} {split}", workers=workers)
        counts[f"{split} label maps"] = len(jobs)
    return Prepared(folder, counts)


def convert_scene(job: Job) -> None:
    """Writes the label map and the image of a scene.

    Args:
        job: sources (image, segmentation), targets (map, image).

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    image, segmentation = job.sources
    colors = read_values(segmentation)
    if colors.ndim != 3 or colors.shape[2] < 3:
        raise InputError(f"{segmentation}: no RGB image; is it of {FOLDER}?")
    labels = class_table()[colors[..., 0] // 10 * 256 + colors[..., 1]]
    check_size(image, labels.shape)
    height, width = labels.shape
    if min(height, width) <= SHORT_SIDE:
        link_or_copy(image, job.targets[1])
    else:
        scale = SHORT_SIDE / min(height, width)
        size = (round(width * scale), round(height * scale))
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        _shrink(image, job.targets[1], size)
    write_map(job.targets[0], labels)


@cache
def class_table() -> np.ndarray:
    """(6656,) uint16: the class of each of ADE20K's numbers, void for the rare ones."""
    numbers = json.loads(_NUMBERS.read_text(encoding="utf-8"))
    table = np.full((255 // 10 + 1) * 256, VOID[np.dtype(np.uint16)], dtype=np.uint16)
    table[numbers] = np.arange(len(numbers))
    return table


def _shrink(source: Path, target: Path, size: tuple[int, int]) -> None:
    try:
        with Image.open(source) as image:
            small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{source}: cannot be read as an image: {error}") from error
    with writing(target) as temporary:
        small.save(temporary, format="JPEG", quality=_QUALITY)
