"""Nouns that can name a mask, out of a caption's tagged words.

OVSeg (Liang et al., CVPR 2023), section 3.2, takes the nouns of captions by NLTK; how it treats
compounds, plurals and words that name no region is not published. Here nouns that stand side by
side are one ("wine glass"), colours and sizes before them are left out, and so are nouns that only
say where something is or how much of it ("front", "side", "group", "photo").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from ..vocabulary.singular import singular
from .words import ADJECTIVES, COMPOUNDS, QUALIFIERS, STOP_WORDS, VERBS_FOR_NOUNS

MAX_WORDS = 3
MAX_LETTERS = 40
WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")  # letters, joined by hyphens or apostrophes

TaggedWord = tuple[str, str]


@runtime_checkable
class Tagger(Protocol):
    """Says of every word of a sentence which part of speech it is."""

    @property
    def name(self) -> str:
        """For the manifest: what it is and which data it reads."""
        ...

    def tag(self, sentence: str) -> list[TaggedWord]:
        """The words in lower case with Penn Treebank tags; nouns begin with NN."""
        ...


@dataclass(frozen=True)
class NounOptions:
    """What counts as one noun.

    Attributes:
        compounds: nouns side by side are one, "wine glass"; else each word is a noun.
        fold_plurals: "dogs" becomes "dog".
        stop_words: nouns to leave out beside the ones in `words.py`, in the singular.
    """

    compounds: bool = True
    fold_plurals: bool = False
    stop_words: tuple[str, ...] = ()

    @cached_property
    def stops(self) -> frozenset[str]:
        """All stop words, and verbs that taggers take for nouns."""
        return STOP_WORDS | VERBS_FOR_NOUNS | {word.strip().lower() for word in self.stop_words}


def nouns_of(words: Sequence[TaggedWord], options: NounOptions) -> tuple[str, ...]:
    """The nouns of a sentence in the order in which they first stand, each once.

    Args:
        words: tagged, in lower case.
        options: what counts as one noun.
    """
    found: dict[str, None] = {}
    for run in _runs(words, compounds=options.compounds):
        noun = _trimmed(run, options)
        if noun is not None:
            found[singular(noun) if options.fold_plurals else noun] = None
    return tuple(found)


def _runs(words: Sequence[TaggedWord], *, compounds: bool) -> list[list[str]]:
    """Words that make one noun: nouns side by side, and what belongs to a fixed compound."""
    runs: list[list[str]] = []
    going = False
    for i, (word, tag) in enumerate(words):
        following = words[i + 1][0] if i + 1 < len(words) else ""
        opens = compounds and f"{word} {singular(following)}" in COMPOUNDS
        closes = compounds and i > 0 and f"{words[i - 1][0]} {singular(word)}" in COMPOUNDS
        is_noun = (tag.startswith("NN") or opens or closes) and WORD.fullmatch(word) is not None
        if is_noun and going and compounds:
            runs[-1].append(word)
        elif is_noun:
            runs.append([word])
        going = is_noun
    return runs


def _trimmed(run: list[str], options: NounOptions) -> str | None:
    """The run without qualifiers before it and stop words around it; None if nothing is left."""
    kept = list(run)
    while kept and _is_stop(kept[-1], options):
        kept.pop()
    while kept and (_is_stop(kept[0], options) or (kept[0] in ADJECTIVES and len(kept) > 1)):
        if " ".join([*kept[:-1], singular(kept[-1])]) in COMPOUNDS:
            break
        kept.pop(0)
    noun = " ".join(kept[-MAX_WORDS:])
    usable = 2 <= len(noun) <= MAX_LETTERS and noun not in QUALIFIERS
    return noun if usable else None


def _is_stop(word: str, options: NounOptions) -> bool:
    return word in options.stops or singular(word) in options.stops
