"""The embeddings of all nouns of a mining, on disk, computed once: the text tower is frozen.

Nouns are sorted by how many images have them, and kept in files of `CHUNK`: the few nouns that most
images ask for are in the first files, which stay in memory. A file is written whole, so that a
killed run goes on with the next one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.errors import VocabularyError
from ovseg_cli.progress import progress
from ovseg_cli.run import load_tensors, save_tensors
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary.text_embeddings import EncodeText, text_embeddings

CHUNK = 1024
KEPT_CHUNKS = 32


class NounEmbeddings:
    """The embedding of every noun, of unit length; zero for what the text tower cannot read."""

    def __init__(self, folder: Path, nouns: Counter[str]) -> None:
        """Names the files; `make` writes those that are missing.

        Args:
            folder: gets the files.
            nouns: with the number of images of each.
        """
        self._folder = folder
        ordered = sorted(nouns, key=lambda noun: (-nouns[noun], noun))
        self._row_of = {noun: row for row, noun in enumerate(ordered)}
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def make(
        self,
        encode_text: EncodeText,
        *,
        templates: Sequence[str],
        on_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        """Encodes the nouns that no file has yet.

        Args:
            encode_text: CLIP's text tower.
            templates: sentences with one {} each.
            on_chunk: called before each file; may raise to stop.
        """
        nouns = list(self._row_of)
        starts = range(0, len(nouns), CHUNK)
        for start in progress(starts, title="noun embeddings", unit="file"):
            path = self._path(start // CHUNK)
            if not path.is_file():
                on_chunk()
                rows = _encoded(nouns[start : start + CHUNK], encode_text, templates)
                save_tensors(path, {"embeddings": rows})

    def rows(self, nouns: Sequence[str]) -> Float[Tensor, "U D"]:
        """The embeddings of some nouns, on the CPU.

        Args:
            nouns: at least one, all of them known.
        """
        places = [divmod(self._row_of[noun], CHUNK) for noun in nouns]
        return torch.stack([self._chunk(chunk)[row] for chunk, row in places])

    def _chunk(self, number: int) -> Tensor:
        if number not in self._kept:
            self._kept[number] = load_tensors(self._path(number))["embeddings"]
        self._kept.move_to_end(number)
        if len(self._kept) > KEPT_CHUNKS:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"embeddings-{number:05d}.safetensors"


def _encoded(nouns: Sequence[str], encode_text: EncodeText, templates: Sequence[str]) -> Tensor:
    try:
        return _embeddings(nouns, encode_text, templates)
    except VocabularyError:
        return torch.cat([_one(noun, encode_text, templates) for noun in nouns])


def _one(noun: str, encode_text: EncodeText, templates: Sequence[str]) -> Tensor:
    try:
        return _embeddings([noun], encode_text, templates)
    except VocabularyError:  # more tokens than the text tower reads
        return torch.zeros_like(_embeddings(["a"], encode_text, templates))


def _embeddings(nouns: Sequence[str], encode_text: EncodeText, templates: Sequence[str]) -> Tensor:
    names = tuple(nouns)
    words = Vocabulary(names, tuple((name,) for name in names), (True,) * len(names))
    return F.normalize(text_embeddings(words, encode_text, templates=templates).embeddings, dim=-1)
