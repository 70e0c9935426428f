"""Built-in vocabularies: the class lists of the benchmarks, kept as data beside this file.

Names, ids, splits and things or stuff are facts of the datasets. COCO panoptic's 27 awkward stuff
names ("tree-merged") are replaced by words, as MasQCLIP does; ADE20K's names are split at commas.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import VocabularyError
from ..structures import Vocabulary

DATA = Path(__file__).parent / "data"


@cache
def builtin_names() -> tuple[str, ...]:
    """The names of the built-in vocabularies, sorted."""
    return tuple(sorted(path.stem for path in DATA.glob("*.json")))


def builtin_title(name: str) -> str:
    """One line about a built-in vocabulary.

    Raises:
        VocabularyError: there is none of that name.
    """
    return str(_read(name)["title"])


def builtin_vocabulary(name: str) -> Vocabulary:
    """A built-in vocabulary by name; "coco-48-17" finds coco_48_17.

    Raises:
        VocabularyError: there is none of that name.
    """
    classes = _read(name)["classes"]
    return Vocabulary(
        names=tuple(entry["words"][0] for entry in classes),
        synonyms=tuple(tuple(entry["words"]) for entry in classes),
        is_thing=tuple(entry["thing"] for entry in classes),
        seen=tuple(entry["seen"] for entry in classes if "seen" in entry),
    )


def builtin_ids(name: str) -> tuple[int, ...]:
    """The dataset's own category id of each class of a built-in vocabulary.

    Raises:
        VocabularyError: there is none of that name.
    """
    return tuple(entry["id"] for entry in _read(name)["classes"])


def category_ids(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids to write for each class: a built-in vocabulary's own, otherwise 1 to K."""
    for name in builtin_names():
        if (
            len(_read(name)["classes"]) == len(vocabulary)
            and builtin_vocabulary(name) == vocabulary
        ):
            return builtin_ids(name)
    return tuple(range(1, len(vocabulary) + 1))


def is_builtin(name: str) -> bool:
    """Whether `name` is a built-in vocabulary, in any case and with dashes or underscores."""
    return _file_stem(name) in builtin_names()


@cache
def stuff_words() -> frozenset[str]:
    """Lower-case words that are stuff unless the user says otherwise."""
    lines = (DATA / "stuff_words.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _file_stem(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _read(name: str) -> dict[str, Any]:
    if not is_builtin(name):
        known = ", ".join(builtin_names())
        raise VocabularyError(f"no built-in vocabulary {name!r}; there are {known}")
    return _parsed(_file_stem(name))


@cache
def _parsed(stem: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / f"{stem}.json").read_text(encoding="utf-8"))
    return content
