"""What a vocabulary is to the classifiers: its texts in CLIP's space, the last few kept."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.cosine_logits import ClassTexts, class_texts
from ovseg_cli.proposers import Proposer, ReadsWords
from ovseg_cli.structures import TextEmbeddings, Vocabulary
from ovseg_cli.vocabulary.seen_classes import with_seen
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_embeddings

KEPT_VOCABULARIES = 8


@dataclass(frozen=True)
class VocabularyOptions:
    """How a recipe turns words into texts.

    Attributes:
        labels: the words to score a dataset with, in the order of its classes, in the syntax of
            `--labels`; None for the dataset's own names.
        templates: `name_only` (MasQCLIP) or `vild`, 14 sentences a name.
        training: the words of the classes that training had masks of, in the syntax of `--labels`,
            where the proposals do not say themselves; those that a list calls seen, if it does.
    """

    labels: str | None = None
    templates: Literal["name_only", "vild"] = "name_only"
    training: str | None = None


@dataclass(frozen=True)
class Words:
    """What one vocabulary is to the classifiers.

    Attributes:
        embeddings: its texts, with the background's where the classification has one.
        texts: the same, ready for the masks of any number of images.
        seen: (K,) True for the classes that training had masks of; None where nothing says so.
        proposer: the proposer for these words, where the masks depend on them.
    """

    embeddings: TextEmbeddings
    texts: ClassTexts
    seen: Bool[Tensor, " K"] | None
    proposer: Proposer | None


class KnownWords:
    """Makes `Words` of vocabularies, each once while it is among the last few asked for."""

    def __init__(
        self,
        clip: ClipEncoder,
        classification: Classification,
        options: VocabularyOptions,
        *,
        device: torch.device,
        cache: Path | None = None,
        model_key: str = "",
    ) -> None:
        """Knows nothing yet.

        Args:
            clip: its text tower.
            classification: the background word, and what is made of synonyms.
            options: the templates around words.
            device: where the texts shall be.
            cache: a folder that keeps text embeddings from one process to the next.
            model_key: tells this text tower from others in that folder.
        """
        self._clip, self._classification, self._options = clip, classification, options
        self._device, self._cache, self._model_key = device, cache, model_key
        self._known: OrderedDict[Vocabulary, Words] = OrderedDict()

    def of(
        self,
        vocabulary: Vocabulary,
        *,
        training: Vocabulary | None,
        proposer: Proposer | ReadsWords | None,
    ) -> Words:
        """What a vocabulary is to the classifiers.

        Args:
            vocabulary: at least one class.
            training: the classes that training had masks of, if that is known.
            proposer: is told the words if it reads any.

        Raises:
            VocabularyError: a word is too long for the text tower.
        """
        if vocabulary not in self._known:
            self._known[vocabulary] = self._new(vocabulary, training, proposer)
        self._known.move_to_end(vocabulary)
        if len(self._known) > KEPT_VOCABULARIES:
            self._known.popitem(last=False)
        return self._known[vocabulary]

    def _new(
        self,
        vocabulary: Vocabulary,
        training: Vocabulary | None,
        proposer: Proposer | ReadsWords | None,
    ) -> Words:
        embeddings = text_embeddings(
            vocabulary,
            self._clip.encode_text,
            templates=TEMPLATES[self._options.templates],
            background=self._classification.background,
            cache=self._cache,
            model_key=self._model_key,
        ).to(self._device)
        if training is not None:
            vocabulary = with_seen(vocabulary, training)
        seen = torch.tensor(vocabulary.seen, device=self._device) if vocabulary.seen else None
        texts = class_texts(embeddings, self._classification.synonyms)
        told = proposer.with_words(embeddings) if isinstance(proposer, ReadsWords) else None
        return Words(embeddings, texts, seen, told)
