"""Text embeddings on disk, word by word, so that vocabularies that share words share their work.

A folder for each text tower and set of templates; in it a file for the words that were encoded
together. Files are written whole and never changed: processes that write at the same time may each
encode a word, and none loses one.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StorageError
from ..storage import writing

_FORMAT = 2
_log = logging.getLogger(__name__)


class KeptWords:
    """The words that one text tower has encoded with one set of templates."""

    def __init__(self, cache: Path, model_key: str, templates: Sequence[str]) -> None:
        """Names the folder; it need not be there.

        Args:
            cache: holds a folder for each text tower and set of templates.
            model_key: tells the text tower from any other.
            templates: sentences with one {} each.
        """
        self.folder = cache / _digest([_FORMAT, model_key, list(templates)])

    def rows(self, words: Sequence[str]) -> dict[str, Float[Tensor, " D"]]:
        """The embeddings of those of the words that are kept.

        Args:
            words: to look for.
        """
        wanted = set(words)
        found: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if len(found) == len(wanted):
                break
            found |= _rows_of(path, wanted.difference(found))
        return found

    def keep(self, words: Sequence[str], embeddings: Float[Tensor, "U D"]) -> None:
        """Adds a file; where that cannot be, it costs time and not the result.

        Args:
            words: all different.
            embeddings: one a word.
        """
        path = self.folder / f"{_digest(list(words))}.safetensors"
        metadata = {"words": json.dumps(list(words))}
        try:
            with writing(path) as temporary:
                save_file({"embeddings": embeddings.contiguous()}, temporary, metadata)
        except (StorageError, SafetensorError, OSError) as error:
            _log.warning("the text embeddings are not kept: %s", error)


def _digest(value: list[object]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _rows_of(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    """The wanted words of a file, which is not read further where it has none of them."""
    try:
        with safe_open(path, "pt") as file:
            places = {word: row for row, word in enumerate(json.loads(file.metadata()["words"]))}
            here = wanted.intersection(places)
            if not here:
                return {}
            embeddings = file.get_tensor("embeddings")
            return {word: embeddings[places[word]] for word in here}
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, OSError) as error:
        _log.warning("%s: not readable (%s); its words are encoded again, delete it", path, error)
        return {}
