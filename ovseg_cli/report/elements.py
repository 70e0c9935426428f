"""HTML elements; whatever is said in them is text, never markup.

They are the standard library's XML elements, which escape all text and attributes when written.
"""

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element

Child = Element | str | None
_UNWRITABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def element(tag: str, *children: Child | Iterable[Child], **attributes: str | None) -> Element:
    """An element with its children in order.

    Args:
        tag: its name.
        children: elements, texts, or sequences of these; None is left out.
        attributes: by name, a trailing or inner underscore for what Python cannot say (`class_`,
            `aria_label`); None is left out, "" is an attribute without a value.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), clean(value))
    for child in _flat(children):
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + clean(child)
        else:
            made.text = (made.text or "") + clean(child)
    return made


def name_of(text: str) -> Element:
    """Words of the user's, which may run from right to left without turning what is around."""
    return element("bdi", text)


def clean(text: str) -> str:
    """The text with a mark in the place of each character that no page can hold.

    Args:
        text: may hold control characters, and the halves of characters that stand for the bytes of
            a file name that is no text.
    """
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _flat(children: Iterable[Child | Iterable[Child]]) -> Iterable[Element | str]:
    for child in children:
        if isinstance(child, Element | str):
            yield child
        elif child is not None:
            yield from _flat(child)
