"""Class lists as FC-CLIP, ODISE and OpenSeg write them: a line a class, "12:couch,sofa".

The number is the dataset's, and decides nothing: classes come in the order of their lines. A line
whose name is "invalid_class_id" is no class. A name may stand in several classes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import VocabularyError
from .word_files import lines_of

NO_CLASS = "invalid_class_id"
_LINE = re.compile(r"(\d{1,9})\s*:(.*)")


def is_class_name_file(path: Path) -> bool:
    """Whether a file of words begins with a number and a colon.

    Raises:
        VocabularyError: it cannot be read.
    """
    first = next(lines_of(path), None)
    return first is not None and _LINE.fullmatch(first[1]) is not None


def class_names(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The place of each class, for messages, and its names, none left out and none changed.

    Raises:
        VocabularyError: a line is no number and names, or its number is there already.
    """
    places: dict[int, str] = {}
    for place, line in lines_of(path):
        found = _LINE.fullmatch(line)
        if found is None:
            raise VocabularyError(f"{place}: 'number:name,synonym' is expected, as in other lines")
        number = int(found[1])
        if number in places:
            raise VocabularyError(
                f"{place}: the number {number} is there already ({places[number]}); keep one of "
                "the two"
            )
        places[number] = place
        if found[2].strip() != NO_CLASS:
            yield place, tuple(found[2].replace(", ", ",").split(","))
