"""What the user writes after --labels, read into a Vocabulary.

"beer,wine glass"          a class between commas
"couch/sofa,dog"           synonyms between slashes, the first one is shown
"sky:stuff,sign:thing"     stuff is one region, things are counted; common stuff words are known
"@words.txt"               a file: a line a class, the same syntax, # starts a comment
"@names.txt"               a file of lines such as "12:couch,sofa", see class_name_files.py
"ade20k_150"               a built-in vocabulary; all of these can be joined by commas
"""

import difflib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import VocabularyError
from ..structures import Vocabulary
from .builtin import builtin_names, builtin_vocabulary, is_builtin, stuff_words
from .class_name_files import class_names, is_class_name_file
from .word_files import lines_of

MAX_WORD_LENGTH = 100
MAX_CLASSES = 20_000
_KINDS = {"thing": True, "stuff": False}


@dataclass(frozen=True)
class _Label:
    words: tuple[str, ...]
    is_thing: bool
    seen: bool | None
    place: str


def parse_labels(text: str) -> Vocabulary:
    """The vocabulary that a user's text stands for; see the syntax at the top of this file.

    A word is compared without regard to case and spaces. Things and stuff of a word without a mark
    are decided by a short list of common stuff words (`stuff_words`); any other word is a thing.

    Raises:
        VocabularyError: no label, an empty, repeated or over-long one, an unknown mark, or a file
            that cannot be read as labels.
    """
    if is_builtin(text):
        return builtin_vocabulary(text)
    path = _label_file(text)
    numbered = path is not None and is_class_name_file(path)
    labels = list(_labels(text, path, numbered=numbered))
    if not labels:
        raise VocabularyError(f"{path or '--labels'}: no labels; {_HOW_TO_GIVE}")
    if not numbered:
        _refuse_repeats(labels)
    return _vocabulary(labels)


_HOW_TO_GIVE = 'give words such as "dog,couch/sofa", @file.txt or a built-in name such as coco_80'


def _label_file(text: str) -> Path | None:
    """The file of "@file", unless the "@" begins a list of several entries."""
    text = text.strip()
    if not text.startswith("@") or ("," in text and not os.path.exists(text[1:])):
        return None
    return Path(text[1:])


def _labels(text: str, path: Path | None, *, numbered: bool) -> Iterator[_Label]:
    if path is None:
        return _inline_labels(text)
    return _class_names(path) if numbered else _file_labels(path)


def _inline_labels(text: str) -> Iterator[_Label]:
    if not text.strip():
        return
    entries = text.split(",")
    for number, entry in enumerate(entries, start=1):
        place = f"--labels, label {number} of {len(entries)}"
        entry = entry.strip()
        if entry.startswith("@"):
            yield from _file_labels(Path(entry[1:]))
        elif is_builtin(entry):
            yield from _builtin_labels(entry)
        else:
            _refuse_near_builtin(entry)
            yield _label(entry, place)


def _file_labels(path: Path) -> Iterator[_Label]:
    for place, line in lines_of(path):
        yield from (_label(entry, place) for entry in line.split(","))


def _class_names(path: Path) -> Iterator[_Label]:
    for place, names in class_names(path):
        words = tuple(_word(name, place) for name in names)
        yield _Label(words, _is_thing(words[0]), None, place)


def _builtin_labels(name: str) -> Iterator[_Label]:
    vocabulary = builtin_vocabulary(name)
    seen: Sequence[bool | None] = vocabulary.seen or [None] * len(vocabulary)
    for words, is_thing, is_seen in zip(
        vocabulary.synonyms, vocabulary.is_thing, seen, strict=True
    ):
        yield _Label(words, is_thing, is_seen, name)


def _label(entry: str, place: str) -> _Label:
    words, is_thing = _split_kind(entry, place)
    cleaned = tuple(_word(word, place) for word in words.split("/"))
    if is_thing is None:
        is_thing = _is_thing(cleaned[0])
    return _Label(cleaned, is_thing, None, place)


def _is_thing(word: str) -> bool:
    return word.casefold() not in stuff_words()


def _split_kind(entry: str, place: str) -> tuple[str, bool | None]:
    if ":" not in entry:
        return entry, None
    words, kind = entry.rsplit(":", 1)
    if kind.strip().lower() not in _KINDS:
        raise VocabularyError(
            f"{place}: a label ends in ':thing' or ':stuff', not in {_shown(':' + kind.strip())}"
        )
    return words, _KINDS[kind.strip().lower()]


def _word(word: str, place: str) -> str:
    word = " ".join(word.split())
    if not word:
        raise VocabularyError(f"{place}: the label is empty; remove the extra comma or slash")
    if len(word) > MAX_WORD_LENGTH:
        raise VocabularyError(
            f"{place}: {_shown(word)} has {len(word)} characters, at most {MAX_WORD_LENGTH} will "
            "do; separate labels by commas"
        )
    if any(_is_control(character) for character in word):
        raise VocabularyError(f"{place}: {_shown(word)} has control characters; remove them")
    return word


def _is_control(character: str) -> bool:
    overrides_direction = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return overrides_direction or unicodedata.category(character) in ("Cc", "Cs")


def _refuse_near_builtin(entry: str) -> None:
    if "_" not in entry and not any(character.isdigit() for character in entry):
        return
    close = difflib.get_close_matches(entry.lower(), builtin_names(), n=1, cutoff=0.8)
    if close:
        raise VocabularyError(
            f"--labels: no built-in vocabulary {_shown(entry)}; did you mean {close[0]!r}?"
        )


def _refuse_repeats(labels: Sequence[_Label]) -> None:
    places: dict[str, str] = {}
    for label in labels:
        words = (label.words[0],) if label.place in builtin_names() else label.words
        for word in words:
            key = unicodedata.normalize("NFKC", word).casefold()
            if key in places:
                raise VocabularyError(
                    f"{label.place}: {_shown(word)} is there already ({places[key]}); "
                    "keep one of the two"
                )
            places[key] = label.place


def _vocabulary(labels: Sequence[_Label]) -> Vocabulary:
    if len(labels) > MAX_CLASSES:
        raise VocabularyError(f"--labels: {len(labels)} classes, at most {MAX_CLASSES} will do")
    seen = tuple(label.seen for label in labels if label.seen is not None)
    return Vocabulary(
        names=tuple(label.words[0] for label in labels),
        synonyms=tuple(label.words for label in labels),
        is_thing=tuple(label.is_thing for label in labels),
        seen=seen if len(seen) == len(labels) else (),
    )


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")
