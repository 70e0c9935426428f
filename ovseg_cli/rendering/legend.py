"""The legend below a drawing, and the letters of both."""

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ..structures import Segment, Vocabulary
from .colors import class_color

BACKGROUND = (22, 23, 28)
FONT_SIZE = 15
_TEXT = (238, 239, 242)
_MUTED = (150, 153, 163)
_LINE, _DENSE_LINE = 28, 22
_MARGIN, _GAP, _SWATCH = 12, 22, 20
_FLOWING = 16  # chips that follow one another; more stand in columns
_NARROWEST = 240  # of a page, for a name in full
_LONGEST_NAME = 220
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def with_legend(
    canvas: Image.Image, segments: Sequence[Segment], vocabulary: Vocabulary
) -> Image.Image:
    """The drawing on a page with a chip for each class that was found; many stand in columns.

    Args:
        canvas: the drawing; beside a narrow one the page is wider.
        segments: what was found.
        vocabulary: the classes' names.
    """
    width = max(canvas.width, _NARROWEST)
    entries = _legend_entries(segments, vocabulary, width - 2 * _MARGIN - _SWATCH)
    places, height = _places([f"{name} {amount}" for _, name, amount in entries], width)
    page = Image.new("RGB", (width, canvas.height + height + _MARGIN), color=BACKGROUND)
    page.paste(canvas)
    draw, letters = ImageDraw.Draw(page), font(FONT_SIZE)
    for (label, name, amount), (left, line) in zip(entries, places, strict=True):
        middle = canvas.height + _MARGIN // 2 + line
        swatch = (left, middle - 7, left + 13, middle + 6)
        draw.rounded_rectangle(swatch, 4, fill=class_color(label))
        draw.text((left + _SWATCH, middle), name, fill=_TEXT, font=letters, anchor="lm")
        offset = left + _SWATCH + letters.getlength(name + " ")
        draw.text((offset, middle), amount, fill=_MUTED, font=letters, anchor="lm")
    if not entries:
        middle = canvas.height + _MARGIN // 2 + _LINE // 2
        draw.text((_MARGIN, middle), "nothing found", fill=_MUTED, font=letters, anchor="lm")
    return page


def _legend_entries(
    segments: Sequence[Segment], vocabulary: Vocabulary, width: int
) -> list[tuple[int, str, str]]:
    """(class, name, count or share of the area), things first, the most frequent ones first."""
    names, longest = vocabulary.names, min(width, _LONGEST_NAME)
    total = sum(segment.area for segment in segments) or 1
    things: dict[int, int] = {}
    stuff: dict[int, int] = {}
    for segment in segments:
        group, amount = (things, 1) if segment.is_thing else (stuff, segment.area)
        group[segment.label] = group.get(segment.label, 0) + amount
    rows = [(label, f"x{count}" if count > 1 else "") for label, count in _by_amount(things)]
    rows += [(label, f"{max(1, 100 * area // total)} %") for label, area in _by_amount(stuff)]
    return [
        (label, fitting(names[label], longest - int(_length(f" {amount}"))), amount)
        for label, amount in rows
    ]


def _by_amount(amounts: dict[int, int]) -> list[tuple[int, int]]:
    return sorted(amounts.items(), key=lambda item: (-item[1], item[0]))


def _places(texts: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """(left, middle) of every chip in pixels from the legend's upper left corner, its height."""
    needed = [int(_length(text)) + _SWATCH + _GAP for text in texts]
    if len(texts) > _FLOWING:
        return _columns(len(texts), max(needed), width)
    places, left, line = [], _MARGIN, 0
    for wide in needed:
        if left > _MARGIN and left + wide - _GAP + _MARGIN > width:
            left, line = _MARGIN, line + 1
        places.append((left, line * _LINE + _LINE // 2))
        left += wide
    return places, (line + 1) * _LINE


def _columns(count: int, needed: int, width: int) -> tuple[list[tuple[int, int]], int]:
    """As many columns as fit, to be read line by line."""
    columns = max(1, (width - 2 * _MARGIN + _GAP) // needed)
    step = (width - 2 * _MARGIN + _GAP) // columns
    places = [
        (_MARGIN + index % columns * step, index // columns * _DENSE_LINE + _LINE // 2)
        for index in range(count)
    ]
    return places, -(-count // columns) * _DENSE_LINE + _LINE - _DENSE_LINE


@lru_cache
def font(size: int) -> _Font:
    """Pillow's own letters; nothing has to be installed."""
    return ImageFont.load_default(size)


def short(name: str, length: int) -> str:
    """A name of at most that many characters, cut with an ellipsis."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def fitting(text: str, width: int) -> str:
    """The text, cut with an ellipsis where it would run out of its width in pixels."""
    length = len(text)
    while length > 1 and _length(short(text, length)) > width:
        length -= 1
    return short(text, length)


def _length(text: str) -> float:
    return font(FONT_SIZE).getlength(text)
