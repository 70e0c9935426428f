"""Pictures inside a page."""

import base64
import io
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from PIL import Image

from .elements import Child, element

QUALITIES = (85, 70, 50, 30)


@dataclass(frozen=True)
class Picture:
    """A picture as a page holds it.

    Attributes:
        uri: its bytes as a `data:` address.
        size: (width, height) in pixels.
    """

    uri: str
    size: tuple[int, int]


def picture_of(image: Image.Image, *, longest_side: int, most_bytes: int) -> Picture:
    """A picture, reduced until it is small enough.

    Args:
        image: any; it is not enlarged.
        longest_side: pixels.
        most_bytes: of the JPEG; the quality is lowered first, then the size.
    """
    reduced = image.convert("RGB")
    reduced.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        content = _jpeg(reduced, quality)
        if len(content) <= most_bytes:
            uri = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
            return Picture(uri, reduced.size)
    return picture_of(image, longest_side=max(1, longest_side * 3 // 4), most_bytes=most_bytes)


def shown(picture: Picture, alternative: str) -> Element:
    """The picture as an element.

    Args:
        picture: with its size, so that the page does not jump while it is laid out.
        alternative: what it shows, for those who cannot see it.
    """
    width, height = (str(side) for side in picture.size)
    return element("img", src=picture.uri, alt=alternative, width=width, height=height)


def figure(*parts: Child, caption: Child) -> Element:
    """Pictures with words below them.

    Args:
        parts: the pictures.
        caption: the words.
    """
    return element("figure", parts, element("figcaption", caption))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
