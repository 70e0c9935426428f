"""The page around the sections of a report: one file that asks for nothing from anywhere.

Its content security policy forbids all but the styles and the one script inside, and pictures
that are part of the page. Without the script it says the same; with it, tables are sorted by a
click on a column's head and filtered by words.
"""

import base64
import hashlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from .elements import Child, element

DOCTYPE = "<!DOCTYPE html>\n"


def page(title: str, subtitle: Child, sections: Sequence[Child]) -> str:
    """The HTML of a whole page.

    Args:
        title: in the window's head and on top.
        subtitle: below it.
        sections: as `section` makes them; None is left out.
    """
    root = element(
        "html",
        _head(title),
        element(
            "body",
            element("header", element("h1", title), element("p", subtitle)),
            element("main", sections),
            element("script", _shipped("page.js")),
        ),
        lang="en",
    )
    return DOCTYPE + tostring(root, encoding="unicode", method="html") + "\n"


def section(title: str, *children: Child, note: str | None = None) -> Element:
    """A part of the page under a heading.

    Args:
        title: the heading.
        children: what it holds.
        note: a sentence on how to read it.
    """
    said = None if note is None else element("p", note, class_="note")
    return element("section", element("h2", title), said, children)


def facts(rows: Mapping[str, str]) -> Element:
    """Names with what they stand for, such as the circumstances of a result.

    Args:
        rows: in order; those without a text are left out.
    """
    pairs = (
        part
        for name, text in rows.items()
        for part in (element("dt", name), element("dd", text))
        if text
    )
    return element("dl", pairs)


def circumstances() -> dict[str, str]:
    """The command that makes this page, and when."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def _head(title: str) -> Element:
    script = hashlib.sha256(_shipped("page.js").encode()).digest()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{base64.b64encode(script).decode('ascii')}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", _shipped("page.css")),
    )


def _shipped(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
