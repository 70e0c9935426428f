"""The page of an evaluation: how good, in which classes, what is taken for what, in pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from .confusions import Confusion
from .elements import Child, element, name_of
from .page import facts, page, section
from .pictures import Picture, figure, shown
from .tables import Bar, Cell, Count, Figure, Name, class_table, table

HEADLINES = (
    ("PQ", "panoptic", "pq"),
    ("mIoU", "semantic", "miou"),
    ("mask AP", "instance", "ap"),
    ("masks covered at IoU 0.5", "proposal_recall", "recall50"),
    ("annotated masks named", "mask_accuracy", None),
)


@dataclass(frozen=True)
class ScoredPicture:
    """An image of the split as it was found, beside its annotations.

    Attributes:
        name: the image's.
        score: 0 to 1.
        found: the drawing of the result.
        annotated: the drawing of the annotations.
        mistakes: (annotated, named) words of the segments that were found under another name.
    """

    name: str
    score: float
    found: Picture
    annotated: Picture
    mistakes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class EvaluationReport:
    """What the page says.

    Attributes:
        dataset: dataset and split.
        name: of the results' folder.
        results: means by metric and group of classes, 0 to 1.
        scores: the same for people: a head, and a row a figure in percent.
        per_class: a row a class, see `class_table`.
        pixels: the most frequent confusions of the semantic maps.
        segments: those of segments whose outlines were right.
        best: images with the highest scores.
        worst: images with the lowest scores.
        picture_score: what the images' score is called.
        tables: further results, each under its title: a head, and rows of text.
        circumstances: how the result was made.
    """

    dataset: str
    name: str
    results: Mapping[str, Any]
    scores: Sequence[Sequence[str]]
    per_class: Sequence[Mapping[str, Any]]
    pixels: Sequence[Confusion] = ()
    segments: Sequence[Confusion] = ()
    best: Sequence[ScoredPicture] = ()
    worst: Sequence[ScoredPicture] = ()
    picture_score: str = "PQ"
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    circumstances: Mapping[str, str] = field(default_factory=dict)


def evaluation_page(report: EvaluationReport) -> str:
    """The HTML of an evaluation.

    Args:
        report: what it says.
    """
    return page(
        f"{report.dataset}: {report.name}",
        "Segmented by ovseg, and compared with the annotations.",
        [
            section(
                "Scores",
                _tiles(report.results),
                _text_table(report.scores, "Means over classes, in percent"),
            ),
            *(section(title, _text_table(rows, title)) for title, rows in report.tables.items()),
            section(
                "Classes",
                class_table(report.per_class),
                note="Percent of each class; a dash where a class is neither annotated nor found.",
            ),
            _confusions(report),
            _pictures("Worst images", report.worst, report.picture_score),
            _pictures("Best images", report.best, report.picture_score),
            section("How it was made", facts(report.circumstances)),
        ],
    )


def _tiles(results: Mapping[str, Any]) -> Element:
    tiles = []
    for title, metric, key in HEADLINES:
        parts = {
            group: value if key is None else (value or {}).get(key)
            for group, value in results.get(metric, {}).items()
        }
        if parts.get("all") is not None:
            tiles.append(_tile(title, parts))
    return element("div", tiles, class_="tiles")


def _tile(title: str, parts: Mapping[str, float | None]) -> Element:
    groups = {"seen": parts.get("base"), "unseen": parts.get("novel")}
    known = [f"{name} {100 * value:.1f}" for name, value in groups.items() if value is not None]
    return element(
        "div",
        element("small", title),
        element("b", f"{100 * (parts['all'] or 0.0):.1f}"),
        element("small", " · ".join(known)) if known else None,
        class_="tile",
    )


def _text_table(rows: Sequence[Sequence[str]], caption: str) -> Element:
    head, *body = rows
    cells: list[list[Cell]] = [[row[0], *map(Figure, row[1:])] for row in body]
    return table(head, cells, caption=caption)


def _confusions(report: EvaluationReport) -> Element | None:
    kinds = {
        "Segments with the right outline and another name": ("segments", report.segments),
        "Pixels": ("pixels", report.pixels),
    }
    made = [_confusion_table(title, unit, found) for title, (unit, found) in kinds.items() if found]
    if not made:
        return None
    return section(
        "What is taken for what",
        element("div", made, class_="columns"),
        note="The most frequent pairs; the share is that of all that is annotated as the class.",
    )


def _confusion_table(title: str, unit: str, found: Sequence[Confusion]) -> Element:
    rows: list[list[Cell]] = [
        [
            Name(pair.annotated),
            "nothing" if pair.named is None else Name(pair.named),
            Count(pair.count),
            Bar(pair.share),
        ]
        for pair in found
    ]
    return table(
        ("annotated", "named", unit, "share"), rows, caption=title, sortable=True, sorted_by=2
    )


def _pictures(title: str, pictures: Sequence[ScoredPicture], score: str) -> Element | None:
    if not pictures:
        return None
    made = [_picture(picture, score) for picture in pictures]
    note = (
        f"By the {score} of the image alone. "
        "On the left what was found, on the right what is annotated."
    )
    return section(title, element("div", made, class_="pairs"), note=note)


def _picture(picture: ScoredPicture, score: str) -> Element:
    both = element(
        "div",
        shown(picture.found, f"What was found in {picture.name}"),
        shown(picture.annotated, f"What is annotated in {picture.name}"),
        class_="two",
    )
    mistakes: list[Child] = []
    for annotated, named in picture.mistakes:
        mistakes += ["; " if mistakes else " · ", name_of(annotated), " named ", name_of(named)]
    heading = element("b", f"{score} {100 * picture.score:.1f}")
    return figure(both, caption=element("span", heading, " · ", name_of(picture.name), mistakes))
