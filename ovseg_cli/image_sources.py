"""Images from files, folders, globs, lists and stdin, opened safely and turned into RGB.

What counts as an image is decided by its content, never by its name. The header's size is checked
before a pixel is decoded.
"""

import os
import re
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import has_magic, iglob
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = frozenset(  # what is an image in a folder
    f".{suffix}" for suffix in ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "ppm")
)
MAX_PIXELS = 64_000_000
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")  # a drive of Windows has one letter
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def image_paths(
    source: str, *, recursive: bool = False, stdin: Iterable[str] | None = None
) -> Iterator[Path]:
    """The images that a source names, one after the other; a file is not opened here.

    Args:
        source: a file; a folder (its images in the order of their names); a glob; "@list.txt" with
            a path a line, seen from the current folder; "-" for such a list on stdin.
        recursive: a folder's folders too.
        stdin: what "-" reads, sys.stdin where not given.

    Raises:
        InputError: there is nothing of that name, no image in the folder, or no usable list.
    """
    if source == "-":
        yield from _listed(sys.stdin if stdin is None else stdin, "stdin")
    elif source.startswith("@"):
        yield from _listed_in_file(Path(source[1:]))
    elif os.path.isdir(source):
        yield from _in_folder(Path(source), recursive)
    elif has_magic(source) and not os.path.exists(source) and not _ADDRESS.match(source):
        yield from _matching(source)
    else:
        yield Path(source)


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 H W"]:
    """An image as (3, H, W) RGB, upright.

    EXIF rotation is applied; of an animation the first frame is taken; transparency is laid over
    white; 16-bit values are scaled to 8 bits; floats from 0 to 1 are taken as such, other values
    beyond 8 bits are scaled from their own range.

    Args:
        path: a file in one of `FORMATS`, whatever its name.
        max_pixels: the largest width times height that is decoded.

    Raises:
        InputError: not a file, not an image, too large, or damaged.
    """
    _check_file(path)
    with _opened(path) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"{path}: {width} x {height} pixels are more than {max_pixels:,}; shrink the "
                "image or raise --max-pixels"
            )
        try:
            image.load()
            return rgb_pixels(image)
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"{path}: too large for this machine's memory") from error
        except _DAMAGED as error:
            raise InputError(f"{path}: the image is damaged or cut off ({error})") from error


def rgb_pixels(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """A picture in any mode as (3, H, W) RGB, as `open_image` says.

    Args:
        image: of which the first frame is taken.
    """
    pixels = np.array(_rgb(_upright(image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder, where an image file is needed")
        if not path.exists():
            if _ADDRESS.match(str(path)):  # Path has made one slash of two
                address = path.as_posix().replace(":/", "://", 1)
                raise InputError(f"{address}: a web address; download it and give the file")
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
    except (OSError, ValueError) as error:  # a name too long, or one with a NUL
        raise InputError(f"{str(path)[:100]!r}: not a usable file name ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's own limit gives way to ours, which looks at the header just as early."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, of no use to anybody here
            try:
                image = Image.open(path, formats=FORMATS)
            except UnidentifiedImageError as error:
                known = ", ".join(FORMATS)
                raise InputError(
                    f"{path}: not an image that can be read; give one of {known}"
                ) from error
            except PermissionError as error:
                raise InputError(f"{path}: no permission to read it") from error
            except _DAMAGED as error:
                raise InputError(f"{path}: the image is damaged or cut off ({error})") from error
            with image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image  # metadata that cannot be read turns nothing


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _grey(np.asarray(image).astype(np.float32) / 257)
    if image.mode in ("I", "F"):
        return _grey(_eight_bit(np.asarray(image).astype(np.float64)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bit(values: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65535:
        return values / 257
    scaled: np.ndarray = (values - low) * (255 / (high - low or 1))
    return scaled


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _in_folder(folder: Path, recursive: bool) -> Iterator[Path]:
    found = False
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if name[0] != ".") if recursive else []
            for name in sorted(files):
                if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                    found = True
                    yield Path(parent, name)
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    if not found:
        mend = "give another folder" if recursive else "give another, or --recursive"
        raise InputError(f"{folder}: no images in this folder; {mend}")


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: str) -> Iterator[Path]:
    names = sorted(name for name in iglob(pattern, recursive=True) if not os.path.isdir(name))
    if not names:
        raise InputError(f"{pattern}: no file matches")
    yield from (Path(name) for name in names)


def _listed_in_file(path: Path) -> Iterator[Path]:
    _check_file(path)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from _listed(lines, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _listed(lines: Iterable[str], name: str) -> Iterator[Path]:
    found = False
    try:
        for line in lines:
            line = line.strip()
            if "\0" in line:
                raise InputError(f"{name}: not a list of paths, one a line")
            if line and not line.startswith("#"):
                found = True
                yield Path(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not a list of paths, one a line, in UTF-8") from error
    if not found:
        raise InputError(f"{name}: the list of images is empty")
