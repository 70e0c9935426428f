"""The words of a vocabulary in CLIP's joint space: every name in every template, encoded once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..progress import progress
from ..storage import cache_folder
from ..structures import TextEmbeddings, Vocabulary
from .kept_words import KeptWords
from .templates import NAME_ONLY

EncodeText = Callable[[Sequence[str]], Float[Tensor, "T D"]]

BATCH = 256
KEEP = 512  # words that are encoded and then kept, whatever happens to the next


def text_cache_folder() -> Path:
    """Where text embeddings are kept from one process to the next."""
    return cache_folder() / "texts"


def text_embeddings(
    vocabulary: Vocabulary,
    encode_text: EncodeText,
    *,
    templates: Sequence[str] = NAME_ONLY,
    background: str | None = None,
    cache: Path | None = None,
    model_key: str = "",
) -> TextEmbeddings:
    """One row a synonym, in the order of the classes, on the CPU.

    With the single template "{}" a row is the raw embedding of the name, as MasQCLIP averages
    synonyms before normalising. With other templates each sentence's embedding is normalised, and
    so is their mean, as in ViLD.

    Args:
        vocabulary: the classes.
        encode_text: CLIP's text tower, sentences to (T, D).
        templates: sentences with one {} each.
        background: a word that becomes a last class of its own, flagged as background.
        cache: a folder that keeps embeddings, so that no word is encoded twice.
        model_key: what tells this text tower from any other, its weights' hash; needed by `cache`.

    Raises:
        ValueError: a template without exactly one {}, or a cache without a model key.
        VocabularyError: from `encode_text`, for a word that its text tower would cut off.
    """
    _check(vocabulary, templates, cache, model_key)
    words = [word for synonyms in vocabulary.synonyms for word in synonyms]
    class_of = [index for index, synonyms in enumerate(vocabulary.synonyms) for _ in synonyms]
    if background is not None:
        words.append(background)
        class_of.append(len(vocabulary))
    unique = list(dict.fromkeys(words))
    row_of = {word: row for row, word in enumerate(unique)}
    embeddings = _cached(unique, encode_text, templates, cache, model_key)
    return TextEmbeddings(
        embeddings=embeddings[[row_of[word] for word in words]],
        class_of=torch.tensor(class_of),
        has_background=background is not None,
    )


def _check(
    vocabulary: Vocabulary, templates: Sequence[str], cache: Path | None, model_key: str
) -> None:
    if not len(vocabulary):
        raise ValueError("a vocabulary without classes has no text embeddings")
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise ValueError(f"a template needs exactly one {{}}: {bad or 'there is none'}")
    if cache is not None and not model_key:
        raise ValueError("a cache of text embeddings needs the model's key")


def _cached(
    words: Sequence[str],
    encode_text: EncodeText,
    templates: Sequence[str],
    cache: Path | None,
    model_key: str,
) -> Float[Tensor, "U D"]:
    if cache is None:
        return _encode(words, encode_text, templates)
    kept = KeptWords(cache, model_key, templates)
    rows = kept.rows(words)
    new = [word for word in words if word not in rows]
    with progress(title="words", unit=" words", total=len(new), shown=len(new) > KEEP) as bar:
        for start in range(0, len(new), KEEP):
            some = new[start : start + KEEP]
            embeddings = _encode(some, encode_text, templates)
            kept.keep(some, embeddings)
            rows |= dict(zip(some, embeddings, strict=True))
            bar.update(len(some))
    return torch.stack([rows[word] for word in words])


def _encode(
    words: Sequence[str], encode_text: EncodeText, templates: Sequence[str]
) -> Float[Tensor, "U D"]:
    if tuple(templates) == NAME_ONLY:
        return _in_batches(words, encode_text)
    total: Tensor | int = 0
    for template in templates:
        sentences = [template.replace("{}", word) for word in words]
        total = total + F.normalize(_in_batches(sentences, encode_text), dim=-1)
    assert isinstance(total, Tensor)
    return F.normalize(total, dim=-1)


@torch.no_grad()
def _in_batches(sentences: Sequence[str], encode_text: EncodeText) -> Float[Tensor, "U D"]:
    starts = range(0, len(sentences), BATCH)
    return torch.cat(
        [encode_text(sentences[start : start + BATCH]).float().cpu() for start in starts]
    )
