"""Drawings of a video's frames as a video (H.264 in MP4, or MPEG-4): PyAV, the extra `video`."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..storage import writing

_CODECS = ("libx264", "mpeg4")  # FFmpeg is also built without the first


class Film:
    """A video on its way to the disk; the first drawing decides its size."""

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container = container
        self._rate = rate
        self._stream: Any = None

    def add(self, picture: Image.Image) -> None:
        """Adds a drawing; one of another size is fitted to the first one's.

        Args:
            picture: RGB.
        """
        import av

        if self._stream is None:
            codec = next(name for name in _CODECS if name in av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.pix_fmt = "yuv420p"  # what browsers play; it needs even sides
            self._stream.width, self._stream.height = (max(2, n // 2 * 2) for n in picture.size)
        size = (self._stream.width, self._stream.height)
        fitted = picture if picture.size == size else picture.resize(size)
        frame = av.VideoFrame.from_ndarray(np.asarray(fitted), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())


@contextmanager
def film(path: Path, rate: Fraction) -> Iterator[Film]:
    """A video file that appears when the block ends without an error.

    Args:
        path: an .mp4.
        rate: drawings a second.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    import av

    with (
        writing(path) as temporary,
        temporary.open("wb") as file,
        av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        drawings = Film(container, rate)
        yield drawings
        drawings.finish()
