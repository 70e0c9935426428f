"""Tables: of figures that are text already, and of classes with a bar for every figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from .elements import Child, element, name_of

CLASS_FIGURES = {
    "pq": "PQ",
    "iou": "IoU",
    "ap": "AP",
    "recall50": "recall",
    "mask_accuracy": "masks named",
    "crop_accuracy": "crops named",
}
NOTHING = "–"  # noqa: RUF001 (what page.js takes for no value)


@dataclass(frozen=True)
class Bar:
    """A share of one, shown as percent and as a bar; None shows that there is none."""

    share: float | None


@dataclass(frozen=True)
class Count:
    """A whole number; None shows that there is none."""

    number: int | None


@dataclass(frozen=True)
class Figure:
    """A figure that is text already."""

    text: str


@dataclass(frozen=True)
class Name:
    """Words of the user's."""

    text: str


Cell = Bar | Count | Figure | Name | str


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str,
    sortable: bool = False,
    sorted_by: int | None = None,
) -> Element:
    """A table that scrolls in a frame of its own where it is too large for the page.

    Args:
        head: a title a column.
        rows: cells in the same order; the first one names the row.
        caption: what the table is, for those who hear it, too.
        sortable: whether a click on a title sorts the rows.
        sorted_by: the column by which they are sorted already, its highest value first.
    """
    kinds = [_is_number(cell) for cell in rows[0]] if rows else [False] * len(head)
    columns = [
        element("th", title, scope="col", class_="number" if number else None)
        for title, number in zip(head, kinds, strict=True)
    ]
    if sorted_by is not None:
        columns[sorted_by].set("aria-sort", "descending")
    body = [element("tr", _row_name(cells[0]), [_cell(c) for c in cells[1:]]) for cells in rows]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", columns)),
        element("tbody", body),
        class_="sortable" if sortable else None,
    )
    return element("div", made, class_="frame", tabindex="0", role="region", aria_label=caption)


def class_table(rows: Sequence[Mapping[str, Any]]) -> Element:
    """The classes with all of their figures, the best ones first.

    Args:
        rows: `class`, `thing`, `seen` (or None), shares of one by the names of `CLASS_FIGURES`,
            and how many were `annotated`.
    """
    figures = [key for key in CLASS_FIGURES if any(row.get(key) is not None for row in rows)]
    with_seen = any(row["seen"] is not None for row in rows)
    with_counts = any("annotated" in row for row in rows)
    head = ["class", "kind", *(CLASS_FIGURES[key] for key in figures)]
    head += ["annotated"] if with_counts else []
    body: list[list[Cell]] = []
    for row in _best_first(rows, figures[0] if figures else None):
        cells: list[Cell] = [Name(str(row["class"])), _kind(row, with_seen=with_seen)]
        cells += [Bar(row.get(key)) for key in figures]
        cells += [Count(_whole(row.get("annotated")))] if with_counts else []
        body.append(cells)
    return table(
        head, body, caption=f"{len(rows)} classes", sortable=True, sorted_by=2 if figures else None
    )


def _best_first(rows: Sequence[Mapping[str, Any]], figure: str | None) -> list[Mapping[str, Any]]:
    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = None if figure is None else row.get(figure)
        return value is None, -(value or 0.0)

    return sorted(rows, key=place)


def _kind(row: Mapping[str, Any], *, with_seen: bool) -> str:
    kind = "thing" if row["thing"] else "stuff"
    return f"{kind}, {'seen' if row['seen'] else 'unseen'}" if with_seen else kind


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Bar | Count | Figure)


def _row_name(cell: Cell) -> Element:
    return element("th", _words(cell), scope="row")


def _cell(cell: Cell) -> Element:
    if isinstance(cell, Bar):
        return _bar(cell.share)
    value = str(cell.number) if isinstance(cell, Count) and cell.number is not None else None
    kind = "number" if _is_number(cell) else None
    return element("td", _words(cell), class_=kind, data_value=value)


def _words(cell: Cell) -> Child:
    if isinstance(cell, Name):
        return name_of(cell.text)
    if isinstance(cell, Count):
        return NOTHING if cell.number is None else f"{cell.number:,}"
    return cell.text if isinstance(cell, Figure) else str(cell)


def _bar(share: float | None) -> Element:
    if share is None:
        return element("td", NOTHING, class_="number")
    percent = f"{100 * share:.1f}"
    return element(
        "td", percent, class_="number bar", style=f"--share:{percent}%", data_value=f"{share:.6f}"
    )
