"""Annotated masks decoded: panoptic PNGs, run lengths and polygons.

Everything is validated before it is decoded: pycocotools returns uninitialised memory for run
lengths that do not fill the image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as coco_mask
from torch import Tensor

from ovseg_cli.errors import InputError

LABEL_MODES = {"L": 255, "P": 255, "I;16": 65535, "I;16B": 65535}  # with the value of void


def read_rgb(path: Path, size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    """An image file as RGB, in the orientation that has the annotated size.

    Args:
        path: any format that Pillow reads.
        size: (height, width) in pixels that the annotations are drawn on.

    Raises:
        InputError: the file is missing, damaged or of another size.
    """
    image = _open(path)
    if (image.height, image.width) != size:
        image = ImageOps.exif_transpose(image)
    if (image.height, image.width) != size:
        found, expected = f"{image.height} x {image.width}", f"{size[0]} x {size[1]}"
        raise InputError(f"{path}: the image is {found}, its annotations say {expected}")
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_panoptic_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The (H, W) segment ids of a panoptic PNG: R + 256 G + 256^2 B.

    Raises:
        InputError: the file is missing, damaged, no RGB image or of another size.
    """
    image = _open(path)
    if image.mode not in ("RGB", "RGBA"):
        raise InputError(f"{path}: a panoptic PNG has mode RGB, not {image.mode}")
    if (image.height, image.width) != size:
        found, expected = f"{image.height} x {image.width}", f"{size[0]} x {size[1]}"
        raise InputError(f"{path}: the PNG is {found}, its image is {expected}")
    channels = np.asarray(image)[..., :3].astype(np.int32)
    return np.asarray(channels @ np.array([1, 256, 65536], dtype=np.int32))


def read_label_map(path: Path) -> Int[Tensor, "H W"]:
    """The (H, W) class indices of an 8 or 16 bit label map, -1 where it has its greatest value.

    Raises:
        InputError: the file is missing, damaged or no label map.
    """
    image = _open(path)
    if image.mode not in LABEL_MODES:
        raise InputError(f"{path}: a label map has one channel of 8 or 16 bits, not {image.mode}")
    labels = np.asarray(image).astype(np.int64)
    return torch.from_numpy(np.where(labels == LABEL_MODES[image.mode], -1, labels))


def panoptic_masks(
    path: Path, segment_ids: Sequence[int], size: tuple[int, int]
) -> Bool[Tensor, "M H W"]:
    """One mask a listed segment of a panoptic PNG.

    Args:
        path: the PNG; 0 is void.
        segment_ids: M different ids, the order of the masks.
        size: (height, width) of the image.

    Raises:
        InputError: PNG and list do not name the same segments.
    """
    pixels = torch.from_numpy(read_panoptic_ids(path, size))
    ids = torch.tensor(list(segment_ids), dtype=torch.int32)
    masks = pixels == ids[:, None, None]
    areas = masks.flatten(1).sum(1)
    if (areas == 0).any():
        raise InputError(f"{path}: segment {int(ids[areas == 0][0])} has no pixel in the PNG")
    if int(areas.sum()) + int((pixels == 0).sum()) != pixels.numel():
        unlisted = pixels[(~masks.any(0)) & (pixels != 0)][0]
        raise InputError(f"{path}: segment {int(unlisted)} of the PNG is not in 'segments_info'")
    return masks


def instance_mask(segmentation: Any, size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """The mask of COCO's `segmentation`: polygons, or run lengths, packed or not.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or {"size", "counts"}.
        size: (height, width) of the image.

    Raises:
        InputError: it is none of these, or does not fit the image.
    """
    return run_length_mask(_run_lengths_of(segmentation, size), size)


def instance_area(segmentation: Any, size: tuple[int, int]) -> int:
    """The pixels of COCO's `segmentation`, which is checked as by `instance_mask`, not decoded.

    Raises:
        InputError: it is none that can be decoded.
    """
    return sum(run_lengths(_run_lengths_of(segmentation, size), size)[1::2])


def run_length_mask(rle: dict[str, Any], size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """The mask of COCO run lengths, column by column, background first.

    Args:
        rle: {"size": [height, width], "counts": lengths, or COCO's packed string}.
        size: (height, width) of the image.

    Raises:
        InputError: the size is another one, or the lengths do not fill it.
    """
    lengths = run_lengths(rle, size)
    inside = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(inside, lengths).reshape(size, order="F")
    return torch.from_numpy(np.ascontiguousarray(columns))


def run_lengths(rle: dict[str, Any], size: tuple[int, int]) -> list[int]:
    """COCO's run lengths unpacked, background first; they fill the image.

    Args:
        rle: {"size": [height, width], "counts": lengths, or COCO's packed string}.
        size: (height, width) of the image.

    Raises:
        InputError: the size is another one, or the lengths do not fill it.
    """
    counts = rle.get("counts")
    if rle.get("size") not in (list(size), size):
        raise InputError(f"run lengths of size {rle.get('size')}, the image is {list(size)}")
    lengths = unpacked_counts(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(lengths, list) or not _is_whole(lengths):
        raise InputError("run lengths have no 'counts' of whole numbers of 0 or more")
    if sum(lengths) != size[0] * size[1]:
        raise InputError(f"run lengths sum to {sum(lengths)}, the image has {size[0] * size[1]}")
    return lengths


def unpacked_counts(packed: str | bytes) -> list[int]:
    """The run lengths of COCO's packed string.

    Five bits a character from 48 on, bit 5 says that more follow, bit 4 of the last is the sign;
    from the third on a length is stored as its difference to the last but one.

    Raises:
        InputError: a character is out of range, or the string ends within a number.
    """
    codes = packed.encode("latin-1", "replace") if isinstance(packed, str) else packed
    lengths: list[int] = []
    value, shift = 0, 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError("run lengths hold a character that COCO's format does not have")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise InputError("run lengths end within a number")
    return lengths


def _run_lengths_of(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    if isinstance(segmentation, dict):
        return segmentation
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError("'segmentation' is neither polygons nor run lengths")
    reach = 2 * max(size)
    for polygon in segmentation:
        if not _is_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise InputError("a polygon needs 3 or more points as x, y in turn")
        if not all(-reach <= value <= reach for value in polygon):  # nan is not
            raise InputError(f"a polygon leaves the image of {size[0]} x {size[1]} by far")
    packed: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    return packed


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be read: {error}") from error


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _is_whole(values: list[Any]) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
