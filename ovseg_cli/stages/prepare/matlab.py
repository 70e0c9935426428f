"""A matrix of whole numbers out of a MATLAB file of level 5 (versions 5 to 7.2).

By MathWorks' "MAT-File Format". SciPy's reader ends the whole process on some damaged files.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ovseg_cli.errors import InputError

MOST_BYTES = 1 << 28  # of a matrix; an image's label map has some hundred thousand
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
_WHOLE = range(8, 16)  # array classes int8 to uint64


def read_matrix(path: Path, name: str) -> np.ndarray:
    """A variable of a MATLAB file.

    Args:
        path: the file.
        name: the variable's, a matrix of whole numbers.

    Returns:
        (H, W) int32.

    Raises:
        InputError: the file is missing, damaged or of another format, or has no such matrix.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if content[126:128] not in (b"IM", b"MI"):
        raise InputError(f"{path}: no MATLAB file of level 5, or cut off")
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        matrix = _find(content[_HEADER:], name.encode(), order)
    except (ValueError, struct.error, zlib.error, IndexError) as error:
        raise InputError(f"{path}: damaged or cut off ({error}); get it anew") from error
    if matrix is None:
        raise InputError(f"{path}: no matrix of whole numbers '{name}' in this file")
    return matrix


def _find(content: bytes, name: bytes, order: str) -> np.ndarray | None:
    for kind, data in _elements(content, order):
        if kind == _COMPRESSED:
            ((kind, data),) = _elements(_decompressed(data), order)
        if kind == _MATRIX:
            found = _matrix(data, name, order)
            if found is not None:
                return found
    return None


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the data elements; small ones have both lengths in a word."""
    at = 0
    while at + 8 <= len(content):
        (word,) = struct.unpack_from(f"{order}I", content, at)
        small = word >> 16
        if small:
            kind, size, start, step = word & 0xFFFF, small, at + 4, 8
        else:
            kind = word
            (size,) = struct.unpack_from(f"{order}I", content, at + 4)
            start, step = at + 8, 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if size > (4 if small else len(content) - start):
            raise ValueError("an element ends beyond the file")
        yield kind, content[start : start + size]
        at += step


def _decompressed(data: bytes) -> bytes:
    packed = zlib.decompressobj()
    content = packed.decompress(data, MOST_BYTES)
    if not packed.eof:
        raise ValueError("a matrix is cut off, or larger than any label map")
    return content


def _matrix(content: bytes, name: bytes, order: str) -> np.ndarray | None:
    """The matrix if it has the name and holds whole numbers."""
    parts = list(_elements(content, order))
    if len(parts) != 4 or parts[2][1] != name:
        return None
    (_, flags), (_, shape), _, (kind, data) = parts
    dimensions = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if struct.unpack_from(f"{order}I", flags)[0] & 0xFF not in _WHOLE or len(dimensions) != 2:
        return None
    if kind not in _TYPES or min(dimensions) < 1:
        raise ValueError(f"numbers of type {kind} and size {dimensions}")
    values = np.frombuffer(data, dtype=np.dtype(order + _TYPES[kind]))
    return values.reshape(dimensions, order="F").astype(np.int32)
