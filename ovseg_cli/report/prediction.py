"""The page of a prediction: what was found, in pictures, and what failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.etree.ElementTree import Element

from .elements import Child, element, name_of
from .page import facts, page, section
from .pictures import Picture, figure, shown
from .tables import Bar, Cell, Count, Name, table

MOST_WORDS = 500
MOST_ROWS = 300


@dataclass(frozen=True)
class Drawing:
    """A segmented image.

    Attributes:
        name: the image's.
        found: how many segments of each word, the most frequent ones first.
        picture: the drawing of the result, small.
        file: the drawing itself, as a path from the page's folder.
    """

    name: str
    found: Mapping[str, int]
    picture: Picture
    file: str


@dataclass(frozen=True)
class PredictionReport:
    """What the page says.

    Attributes:
        images: how many were segmented.
        words: the vocabulary.
        found: how many segments of each word, in all images.
        drawings: some of the images, small.
        failures: inputs without a result, and why.
        failed: how many inputs there are without a result, listed or not.
        circumstances: how the result was made.
    """

    images: int
    words: Sequence[str]
    found: Mapping[str, int]
    drawings: Sequence[Drawing] = ()
    failures: Sequence[tuple[str, str]] = ()
    failed: int = 0
    circumstances: Mapping[str, str] = field(default_factory=dict)


def prediction_page(report: PredictionReport) -> str:
    """The HTML of a prediction.

    Args:
        report: what it says.
    """
    told = [_count(report.images, "image"), _count(len(report.words), "word")]
    told += [f"{_count(report.failed, 'input')} failed"] if report.failed else []
    return page(
        "What was found",
        f"Segmented by ovseg: {', '.join(told)}.",
        [_failures(report), _drawings(report), _words(report), _made(report)],
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _made(report: PredictionReport) -> Element:
    return section("How it was made", facts(report.circumstances))


def _failures(report: PredictionReport) -> Element | None:
    if not report.failures:
        return None
    rows: list[list[Cell]] = [[Name(source), Name(error)] for source, error in report.failures]
    more = report.failed - len(rows)
    note = f"And {_count(more, 'input')} more: errors.jsonl has them all." if more else None
    return section("What failed", table(("input", "why"), rows, caption="Failures"), note=note)


def _drawings(report: PredictionReport) -> Element | None:
    if not report.drawings:
        return None
    more = report.images - len(report.drawings)
    note = f"And {_count(more, 'image')} more, in the folder overlays." if more > 0 else None
    made = [_drawing(drawing) for drawing in report.drawings]
    return section("Images", element("div", made, class_="thumbs"), note=note)


def _drawing(drawing: Drawing) -> Element:
    words: list[Child] = []
    for word, count in drawing.found.items():
        words += [", " if words else " · ", name_of(word), f" x{count}" if count > 1 else None]
    if not drawing.found:
        words = [" · nothing found"]
    picture = shown(drawing.picture, f"What was found in {drawing.name}")
    linked = element("a", picture, href=f"./{quote(drawing.file, errors='replace')}")
    return figure(linked, caption=element("span", name_of(drawing.name), words))


def _words(report: PredictionReport) -> Element:
    found = sorted(report.found.items(), key=lambda entry: (-entry[1], entry[0]))
    total = sum(report.found.values())
    rows: list[list[Cell]] = [
        [Name(word), Count(count), Bar(count / total)] for word, count in found[:MOST_ROWS]
    ]
    title = f"{len(found)} of {_count(len(report.words), 'word')} were found"
    head = ("word", "found", "share of all")
    missed = [word for word in report.words if word not in report.found]
    return section(
        "Words",
        table(head, rows, caption=title, sortable=True, sorted_by=1)
        if rows
        else element("p", title),
        _left_out(len(found) - len(rows)),
        _missed(missed),
    )


def _left_out(more: int) -> Element | None:
    return element("p", f"And {_count(more, 'word')} more.", class_="note") if more else None


def _missed(missed: Sequence[str]) -> Element | None:
    if not missed:
        return None
    listed = [element("li", name_of(word)) for word in missed[:MOST_WORDS]]
    more = len(missed) - len(listed)
    if more:
        listed.append(element("li", f"and {more:,} more"))
    summary = element("summary", f"{_count(len(missed), 'word')} without a find")
    return element("details", summary, element("ul", listed, class_="words"))
