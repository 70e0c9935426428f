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
_LINE = 28
_MARGIN = 12
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def with_legend(
    canvas: Image.Image, segments: Sequence[Segment], vocabulary: Vocabulary
) -> Image.Image:
    """The drawing on a page with a chip for each class that was found, wrapped into lines.

    Args:
        canvas: the drawing.
        segments: what was found.
        vocabulary: the classes' names.
    """
    entries = _legend_entries(segments, vocabulary)
    places, lines = _flow([f"{name} {amount}" for _, name, amount in entries], canvas.width)
    page = Image.new(
        "RGB", (canvas.width, canvas.height + lines * _LINE + _MARGIN), color=BACKGROUND
    )
    page.paste(canvas)
    draw, letters = ImageDraw.Draw(page), font(FONT_SIZE)
    for (label, name, count), (left, line) in zip(entries, places, strict=True):
        middle = canvas.height + _MARGIN // 2 + line * _LINE + _LINE // 2
        swatch = (left, middle - 7, left + 13, middle + 6)
        draw.rounded_rectangle(swatch, 4, fill=class_color(label))
        draw.text((left + 20, middle), name, fill=_TEXT, font=letters, anchor="lm")
        offset = left + 20 + letters.getlength(name + " ")
        draw.text((offset, middle), count, fill=_MUTED, font=letters, anchor="lm")
    if not entries:
        middle = canvas.height + _MARGIN // 2 + _LINE // 2
        draw.text((_MARGIN, middle), "nothing found", fill=_MUTED, font=letters, anchor="lm")
    return page


def _legend_entries(
    segments: Sequence[Segment], vocabulary: Vocabulary
) -> list[tuple[int, str, str]]:
    """(class, name, count or share of the area), things first, the most frequent ones first."""
    total = sum(segment.area for segment in segments) or 1
    things: dict[int, int] = {}
    stuff: dict[int, int] = {}
    for segment in segments:
        group, amount = (things, 1) if segment.is_thing else (stuff, segment.area)
        group[segment.label] = group.get(segment.label, 0) + amount
    rows = [(label, f"x{count}" if count > 1 else "") for label, count in _by_amount(things)]
    rows += [(label, f"{max(1, 100 * area // total)} %") for label, area in _by_amount(stuff)]
    return [(label, short(vocabulary.names[label], 28), amount) for label, amount in rows]


def _by_amount(amounts: dict[int, int]) -> list[tuple[int, int]]:
    return sorted(amounts.items(), key=lambda item: (-item[1], item[0]))


def _flow(texts: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """(left, line) of every chip, and the number of lines."""
    places, left, line = [], _MARGIN, 0
    for text in texts:
        needed = int(font(FONT_SIZE).getlength(text)) + 42
        if left > _MARGIN and left + needed > width:
            left, line = _MARGIN, line + 1
        places.append((left, line))
        left += needed
    return places, line + 1


@lru_cache
def font(size: int) -> _Font:
    """Pillow's own letters; nothing has to be installed."""
    return ImageFont.load_default(size)


def short(name: str, length: int) -> str:
    """A name of at most that many characters, cut with an ellipsis."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
