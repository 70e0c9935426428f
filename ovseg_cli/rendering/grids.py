"""Pictures in rows and columns, with words above them."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .legend import BACKGROUND, FONT_SIZE, fitting, font

_TITLE, _CAPTION = (238, 239, 242), (150, 153, 163)
_LINE = FONT_SIZE + 9
_MARGIN = 12


@dataclass(frozen=True)
class Row:
    """Pictures beside one another.

    Attributes:
        title: above the row.
        pictures: each with its caption.
    """

    title: str
    pictures: Sequence[tuple[Image.Image, str]]


def picture_grid(rows: Sequence[Row], cell: tuple[int, int]) -> Image.Image:
    """One picture of them all, each enlarged to its cell without smoothing.

    Args:
        rows: at least one, of any lengths.
        cell: (width, height) of a picture in pixels.
    """
    width, height = cell
    columns = max(len(row.pictures) for row in rows)
    row_height = 2 * _LINE + height + _MARGIN
    size = (_MARGIN + columns * (width + _MARGIN), _MARGIN + len(rows) * row_height)
    page = Image.new("RGB", size, color=BACKGROUND)
    draw, letters = ImageDraw.Draw(page), font(FONT_SIZE)
    for index, row in enumerate(rows):
        top = _MARGIN + index * row_height
        draw.text((_MARGIN, top), fitting(row.title, size[0] - _MARGIN), fill=_TITLE, font=letters)
        for column, (picture, caption) in enumerate(row.pictures):
            left = _MARGIN + column * (width + _MARGIN)
            place = (left, top + _LINE)
            draw.text(place, fitting(caption, width), fill=_CAPTION, font=letters)
            page.paste(picture.resize(cell, Image.Resampling.NEAREST), (left, top + 2 * _LINE))
    return page
