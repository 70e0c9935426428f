"""Label maps with a class's index in every pixel, from maps in a dataset's own numbers."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.work import Job, link_or_copy
from ovseg_cli.storage import writing

VOID = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
UNKNOWN = -1
_FORMATS = {".png": "PNG", ".tif": "TIFF"}
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def table_of(values: dict[int, int], *, size: int) -> np.ndarray:
    """A table from a map's values to class indices.

    Args:
        values: the class index of each value, or the void value of the new maps.
        size: one more than the greatest value that a map can hold.

    Returns:
        (size,) int32, `UNKNOWN` for the values that no map should hold.
    """
    table = np.full(size, UNKNOWN, dtype=np.int32)
    table[list(values)] = list(values.values())
    return table


def relabelled(labels: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """The class index of every pixel.

    Args:
        labels: (H, W) values of a map.
        table: see `table_of`.
        path: the map's, for messages.

    Raises:
        InputError: more than a number a pixel, or a value that the dataset does not have; the first
            one is named.
    """
    if labels.ndim != 2:
        raise InputError(f"{path}: a label map has one number a pixel, and not {labels.shape[-1]}")
    if labels.min() < 0 or labels.max() >= len(table):
        raise InputError(f"{path}: value {labels.max()} is none of this dataset's")
    found = table[labels]
    if (found == UNKNOWN).any():
        value = labels[found == UNKNOWN][0]
        raise InputError(f"{path}: value {value} is none of this dataset's")
    return found


def convert_map(job: Job, *, table: np.ndarray, kind: str = "uint8") -> None:
    """Writes the label map of one file, and its image under the map's name where it has two.

    Args:
        job: sources (map,) or (map, image), targets likewise.
        table: see `table_of`.
        kind: of the new map's pixels, uint8 or uint16.

    Raises:
        InputError: a file cannot be read, or a pixel has a value that the dataset does not have.
        StorageError: no space left, or the folder cannot be written.
    """
    source = job.sources[0]
    found = relabelled(read_values(source), table, source)
    for image, target in zip(job.sources[1:], job.targets[1:], strict=True):
        check_size(image, found.shape)
        link_or_copy(image, target)
    write_map(job.targets[0], found.astype(kind))


def read_values(path: Path) -> np.ndarray:
    """(H, W) integers, or (H, W, 3) of an RGB file.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.int32)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except _DAMAGED as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error


def check_size(path: Path, size: tuple[int, ...]) -> None:
    """Compares an image's header with the size of its annotations.

    Args:
        path: the image.
        size: (height, width) in pixels.

    Raises:
        InputError: it is missing, damaged or of another size.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except _DAMAGED as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    if (height, width) != tuple(size[:2]):
        annotated = f"{size[0]} x {size[1]}"
        raise InputError(
            f"{path}: the image is {height} x {width}, its annotations are {annotated}"
        )


def write_map(path: Path, labels: np.ndarray) -> None:
    """Writes a label map.

    Args:
        path: with the ending .png or .tif.
        labels: (H, W) uint8 or uint16.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    with writing(path) as temporary:
        Image.fromarray(labels).save(temporary, format=_FORMATS[path.suffix])
