"""What `ovseg predict` reads: pictures, one after the other, be they files or frames of videos."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.errors import InputError
from ovseg_cli.image_sources import MAX_PIXELS, image_paths, open_image
from ovseg_cli.video_frames import video_frames, video_kind

from .prediction_folder import RESULT_FOLDERS


@dataclass(frozen=True)
class ReadOptions:
    """Which pictures are taken.

    Attributes:
        recursive: take the images in a folder's folders.
        max_pixels: larger images are refused before they are decoded.
        every: of a video the first frame and each `every`-th after it.
    """

    recursive: bool = False
    max_pixels: int = MAX_PIXELS
    every: int = 1


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        path: the file.
        image: (3, H, W) RGB, upright.
        frame: the frame's number from 0; None of an image.
        seconds: when it is shown, from the video's beginning.
        rate: the frames a second of what is taken of the video.
    """

    path: Path
    image: UInt8[Tensor, "3 H W"]
    frame: int | None = None
    seconds: float | None = None
    rate: Fraction | None = None

    @property
    def stem(self) -> str:
        """The file's name without suffix, with a frame's number: clip-000012."""
        return self.path.stem if self.frame is None else f"{self.path.stem}-{self.frame:06d}"

    @property
    def name(self) -> str:
        """The path as it was given; a frame's has its number in place of the suffix."""
        return str(self.path if self.frame is None else self.path.with_name(self.stem))


@dataclass(frozen=True)
class Failure:
    """An input that gave no result: what was asked for, and the sentence that says why.

    The error itself is not kept, as it would keep the image that it arose from.
    """

    source: str
    error: str
    frame: int | None = None

    def as_json(self) -> dict[str, str | int]:
        """The same for programs; `frame` only where a frame of a video failed."""
        frame = {} if self.frame is None else {"frame": self.frame}
        return {"source": self.source, **frame, "error": self.error}


def pictures(
    sources: Sequence[str],
    options: ReadOptions,
    *,
    results: Path,
    stdin: Iterable[str] | None = None,
) -> Iterator[Picture | Failure]:
    """Every image and frame that the sources name, and what could not be read of them.

    Args:
        sources: see `image_paths`; a file may be a video.
        options: which are taken.
        results: the folder of the results, which are no input.
        stdin: what the source "-" reads.
    """
    own = [os.path.join(os.path.realpath(results), name) for name in RESULT_FOLDERS]
    for source in sources:
        try:
            for path in image_paths(source, recursive=options.recursive, stdin=stdin):
                if os.path.dirname(os.path.realpath(path)) not in own:
                    yield from _pictures_in(path, options)
                elif str(path) == source:
                    raise InputError(f"{path}: a result of {results}; give another --output")
        except InputError as error:
            yield Failure(source, str(error))


def _pictures_in(path: Path, options: ReadOptions) -> Iterator[Picture | Failure]:
    try:
        if video_kind(path) is None:
            yield Picture(path, open_image(path, max_pixels=options.max_pixels))
            return
        every = options.every
        for frame in video_frames(path, every=every, max_pixels=options.max_pixels):
            yield Picture(path, frame.image, frame.index, frame.seconds, frame.rate / every)
    except InputError as error:
        yield Failure(str(path), str(error))
