"""Video files frame by frame, upright and in RGB: PyAV, the extra `video`.

What counts as a video is decided by its content, never by its name; a file's kind is told to
FFmpeg, which else would also follow playlists to other files and addresses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from .errors import InputError

_MARKS = (  # FFmpeg's name of the kind, where its mark stands, the mark
    *(("mov", 4, mark) for mark in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),
    ("avi", 8, b"AVI "),
    ("flv", 0, b"FLV\x01"),
    ("asf", 0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ("ogg", 0, b"OggS"),
    ("mpeg", 0, b"\x00\x00\x01\xba"),
    ("mpegts", 188, b"G"),
)
_STILLS = (b"avi", b"hei", b"hev", b"mif", b"msf", b"crx")  # AVIF, HEIC, CR3: ISO files, no videos
_MISSING = 0.5  # seconds at the end that tell that a file was cut off


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        index: its number from 0, of all the video's frames.
        seconds: when it is shown, from the video's beginning.
        image: (3, H, W) RGB, upright.
        rate: the video's frames a second.
    """

    index: int
    seconds: float
    image: UInt8[Tensor, "3 H W"]
    rate: Fraction


def video_kind(path: Path) -> str | None:
    """FFmpeg's name of a video file's kind by its first bytes, None for all else."""
    try:
        if not path.is_file():
            return None  # a pipe would be waited for
        with path.open("rb") as file:
            head = file.read(189)
    except (OSError, ValueError):
        return None
    if head[4:8] == b"ftyp" and head[8:11] in _STILLS:
        return None
    for kind, start, mark in _MARKS:
        if head[start : start + len(mark)] == mark and (kind != "mpegts" or head[:1] == b"G"):
            return kind
    return None


def video_frames(path: Path, *, every: int = 1, max_pixels: int) -> Iterator[Frame]:
    """The frames of a video, one after the other; no more than a few are held in memory.

    Args:
        path: a file that `video_kind` knows.
        every: takes the first frame and each `every`-th after it.
        max_pixels: the largest width times height that is decoded.

    Raises:
        InputError: PyAV is not installed, nothing to be seen in the file, too large, or damaged or
            cut off; the last is said after the frames before.
    """
    index = -1
    with _opened(path) as container:
        try:
            stream = _checked_stream(path, container, max_pixels)
            for index, frame in enumerate(_whole_frames(container, stream)):
                if index % every == 0:
                    yield _converted(frame, index, stream)
        except (_library().FFmpegError, _DamagedError) as error:
            after = f" after {index + 1} frames" if index >= 0 else ""
            raise InputError(f"{path}: the video is damaged or cut off{after}") from error
    if index < 0:
        raise InputError(f"{path}: the video has no frame that can be read")


class _DamagedError(Exception):
    """What FFmpeg repairs or passes over without an error."""


def _library() -> Any:
    """PyAV, which only videos need."""
    import av

    return av


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        av = _library()
    except ImportError as error:
        raise InputError(f'{path}: a video; to read it: pip install "ovseg[video]"') from error
    with path.open("rb") as file:
        try:
            container = av.open(file, format=video_kind(path))
        except av.FFmpegError as error:
            raise InputError(f"{path}: the video is damaged or cut off") from error
        with container:
            yield container


def _checked_stream(path: Path, container: Any, max_pixels: int) -> Any:
    if not container.streams.video:
        raise InputError(f"{path}: no video in this file")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        raise InputError(
            f"{path}: frames of {width} x {height} pixels are more than {max_pixels:,}; shrink the "
            "video or raise --max-pixels"
        )
    stream.thread_type = "AUTO"
    return stream


def _whole_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; what is damaged is no frame, and neither is what follows it."""
    first = end = None
    for packet in container.demux(stream):
        for frame in packet.decode():
            if packet.is_corrupt or frame.is_corrupt:
                raise _DamagedError
            yield frame
            if frame.time is not None:
                first = frame.time if first is None else first
                end = frame.time + float((frame.duration or 0) * (frame.time_base or 0))
    stated = _stated_duration(stream)
    if stated is not None and end is not None and end - first < stated - _MISSING:
        raise _DamagedError


def _stated_duration(stream: Any) -> float | None:
    """Seconds by the file's own words; Matroska has them among a track's tags."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def _converted(frame: Any, index: int, stream: Any) -> Frame:
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    start = (stream.start_time or 0) * stream.time_base
    seconds = float(index / rate) if frame.time is None else frame.time - float(start)
    return Frame(index, seconds, image, rate)
