"""Words that nobody asked for: they compete with a vocabulary, and what they win is void.

Without them every mask is one of the words asked for, however few there are. The list is our own:
common things and stuff, with their synonyms. A class of it is left out where it is akin to a word
asked for: where, but for a plural's ending, the words of one are among those of the other, side by
side. So "wine glass" leaves out "glass", "dogs" leaves out "dog/puppy" with both its words, and
"hot dog" the same.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from ..structures import Vocabulary
from .builtin import DATA
from .labels import parse_labels
from .seen_classes import seen_classes
from .singular import singular

_Phrase = tuple[str, ...]


@lru_cache(maxsize=8)
def with_distractors(vocabulary: Vocabulary, training: Vocabulary | None = None) -> Vocabulary:
    """The vocabulary, and after its classes those of the built-in list that are not akin to them.

    Args:
        vocabulary: the classes asked for.
        training: the classes of the training, which says of the others which are seen; where the
            vocabulary says so of its own and nothing says it of the others, these are unseen.
    """
    others = _others(vocabulary)
    seen: tuple[bool, ...] = ()
    if vocabulary.seen:
        unseen = (False,) * len(others)
        seen = vocabulary.seen + (unseen if training is None else seen_classes(others, training))
    return Vocabulary(
        vocabulary.names + others.names,
        vocabulary.synonyms + others.synonyms,
        vocabulary.is_thing + others.is_thing,
        seen,
    )


@cache
def _all() -> Vocabulary:
    return parse_labels(f"@{DATA / 'distractors.txt'}")


def _others(vocabulary: Vocabulary) -> Vocabulary:
    """The classes of the list of which no word is akin to one of the vocabulary."""
    whole = {_phrase(word) for synonyms in vocabulary.synonyms for word in synonyms}
    parts = {part for phrase in whole for part in _parts(phrase)}
    every = _all()
    keep = [
        row
        for row, synonyms in enumerate(every.synonyms)
        if not any(_is_akin(_phrase(word), whole, parts) for word in synonyms)
    ]
    return Vocabulary(
        tuple(every.names[row] for row in keep),
        tuple(every.synonyms[row] for row in keep),
        tuple(every.is_thing[row] for row in keep),
    )


def _is_akin(phrase: _Phrase, whole: set[_Phrase], parts: set[_Phrase]) -> bool:
    return phrase in parts or any(part in whole for part in _parts(phrase))


def _parts(phrase: _Phrase) -> Iterator[_Phrase]:
    """The phrase and all shorter runs of its words."""
    for start in range(len(phrase)):
        for end in range(start + 1, len(phrase) + 1):
            yield phrase[start:end]


def _phrase(text: str) -> _Phrase:
    """The words of a text in lower case, each the same for its singular and its plural."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("-", " ").replace("_", " ")
    return tuple(_of_number(singular(word)) for word in plain.split())


def _of_number(word: str) -> str:
    """What is left of words whose plural is their own singular: glasses, stairs, trousers."""
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        return word[:-1]
    return word
