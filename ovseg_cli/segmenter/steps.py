"""What a segmenter does to an image, step by step."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.cosine_logits import ClassifierLogits, words_shares
from ovseg_cli.datasets.framing import FramingOptions, frame_image
from ovseg_cli.device import Precision, autocast
from ovseg_cli.errors import RecipeError
from ovseg_cli.inference import TASKS, InferenceOptions, Task, segment
from ovseg_cli.mask_encoders import LeavesMasksOut, MaskEncoder, ReadsDenseFeatures
from ovseg_cli.proposers import Proposer, ReadsWords
from ovseg_cli.segmenter.words import KnownWords, VocabularyOptions, Words
from ovseg_cli.structures import (
    EncodedMasks,
    FramedImage,
    Proposals,
    Segmentation,
    TextEmbeddings,
    Vocabulary,
)


class Steps:
    """A proposer, a mask encoder and a CLIP, joined by classification and inference."""

    def __init__(
        self,
        proposer: Proposer | ReadsWords | None,
        mask_encoder: MaskEncoder,
        clip: ClipEncoder,
        *,
        in_vocabulary: MaskEncoder | None = None,
        training_vocabulary: Vocabulary | None = None,
        classification: Classification | None = None,
        inference: InferenceOptions | None = None,
        framing: FramingOptions | None = None,
        vocabulary: VocabularyOptions | None = None,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        text_cache: Path | None = None,
        text_key: str = "",
    ) -> None:
        """Joins parts that are built already.

        Args:
            proposer: finds masks; None if masks are always handed in.
            mask_encoder: brings masks into the space of the texts.
            clip: its text tower brings words into the same space.
            in_vocabulary: a second mask encoder, in the place of the proposals' own embeddings.
            training_vocabulary: the classes that training had masks of, if that is known.
            classification: scale, background word, synonyms, object score, ensemble.
            inference: thresholds.
            framing: the size at which the networks see images.
            vocabulary: the templates around words.
            device: where the parts are.
            precision: of their forward passes.
            text_cache: a folder that keeps text embeddings from one process to the next.
            text_key: tells this text tower from others in that folder.
        """
        self.proposer, self.mask_encoder, self.clip = proposer, mask_encoder, clip
        self.in_vocabulary, self.training_vocabulary = in_vocabulary, training_vocabulary
        self.classification = (classification or Classification()).with_scale_of(clip.logit_scale)
        self.inference = inference or InferenceOptions()
        self.framing = framing or FramingOptions()
        self.vocabulary_options = vocabulary or VocabularyOptions()
        self.device = device or torch.device("cpu")
        self.precision = precision
        self._words = KnownWords(
            clip,
            self.classification,
            self.vocabulary_options,
            device=self.device,
            cache=text_cache,
            model_key=text_key,
        )

    def frame(self, image: UInt8[Tensor, "3 H W"], *, name: str | None = None) -> FramedImage:
        """The image as the networks see it, on their device, encoded once for all that read it.

        Args:
            image: (3, H, W) RGB.
            name: the image file's, for a proposer that looks masks up.
        """
        return self.read(replace(frame_image(image, **asdict(self.framing)), name=name))

    def read(self, framed: FramedImage) -> FramedImage:
        """A framed image on the networks' device, encoded once for all that read it.

        Args:
            framed: of any size that the parts take.
        """
        framed = replace(framed, pixels=framed.pixels.to(self.device))
        for encoder in (self.mask_encoder, self.in_vocabulary):
            if isinstance(encoder, ReadsDenseFeatures) and encoder.dense is not None:
                with self._precision():
                    return replace(framed, encoded=encoder.dense.encode(framed))
        return framed

    def propose(self, framed: FramedImage, vocabulary: Vocabulary | None = None) -> Proposals:
        """The proposer's masks.

        Args:
            framed: from `frame`.
            vocabulary: for a proposer that reads the words; None for those of its training.

        Raises:
            ValueError: there is no proposer.
            RecipeError: nothing says which words the proposer reads.
        """
        with self._precision():
            return self.proposer_for(vocabulary).propose(framed)

    def proposer_for(self, vocabulary: Vocabulary | None) -> Proposer:
        """What finds masks, told the words where it reads any.

        Args:
            vocabulary: the words; None for those of its training.

        Raises:
            ValueError: there is no proposer.
            RecipeError: nothing says which words the proposer reads.
        """
        if self.proposer is None:
            raise ValueError("this segmenter has no proposer")
        if not isinstance(self.proposer, ReadsWords):
            return self.proposer
        words = vocabulary or self.training_vocabulary
        if words is None:
            raise RecipeError(
                "[vocabulary] training: this proposer reads words, and its weights do not say of "
                "which classes they learned masks; name these there, as for --labels"
            )
        proposer = self._words_of(words).proposer
        assert proposer is not None
        return proposer

    def _words_of(self, vocabulary: Vocabulary) -> Words:
        return self._words.of(vocabulary, training=self.training_vocabulary, proposer=self.proposer)

    def encode(
        self, framed: FramedImage, proposals: Proposals, vocabulary: Vocabulary | None = None
    ) -> EncodedMasks:
        """Masks in CLIP's space, by the mask encoder.

        Args:
            framed: from `frame`.
            proposals: N masks of that image, from wherever.
            vocabulary: what they will be told apart by. Where the proposals have a void, an encoder
                that leaves out masks of low scores is given one less the void's probability among
                these words as the score.
        """
        encoder = self.mask_encoder
        if vocabulary is not None and isinstance(encoder, LeavesMasksOut):
            texts, scale = self._words_of(vocabulary).texts, self.classification.temperature
            shares = words_shares(proposals, texts, scale=scale)
            proposals = proposals if shares is None else replace(proposals, scores=shares)
        return self._encoded(self.mask_encoder, framed, proposals)

    def logits(
        self,
        framed: FramedImage,
        proposals: Proposals,
        vocabulary: Vocabulary,
        *,
        encoded: EncodedMasks | None = None,
    ) -> ClassifierLogits:
        """What the classifiers say of masks.

        Args:
            framed: from `frame`.
            proposals: N masks of that image, from wherever.
            vocabulary: K classes.
            encoded: the same masks from `encode`, where that is done already.
        """
        encoded = encoded or self.encode(framed, proposals, vocabulary)
        second = None
        if self.in_vocabulary is not None:
            second = self._encoded(self.in_vocabulary, framed, proposals)
        texts = self._words_of(vocabulary).texts
        proposals = replace(proposals, scores=proposals.scores.to(encoded.embeddings.device))
        return self.classification.logits(encoded, proposals, texts, in_vocabulary=second)

    def classify(
        self, framed: FramedImage, proposals: Proposals, vocabulary: Vocabulary
    ) -> tuple[EncodedMasks, Float[Tensor, "N K"]]:
        """Masks in CLIP's space and their class probabilities.

        Args:
            framed: from `frame`.
            proposals: N masks of that image, from wherever.
            vocabulary: K classes.

        Raises:
            RecipeError: an ensemble that needs to know which classes training had masks of.
        """
        encoded = self.encode(framed, proposals, vocabulary)
        logits = self.logits(framed, proposals, vocabulary, encoded=encoded)
        return encoded, self.classification.combine(logits, seen=self.seen(vocabulary))

    def infer(
        self,
        encoded: EncodedMasks,
        class_probabilities: Float[Tensor, "N K"],
        proposals: Proposals,
        vocabulary: Vocabulary,
        *,
        tasks: Collection[Task] = TASKS,
        options: InferenceOptions | None = None,
        void_classes: int = 0,
    ) -> Segmentation:
        """The results of classified masks, on the CPU.

        Args:
            encoded: N masks.
            class_probabilities: (N, K) from `classify`.
            proposals: the same masks; their frame says how they lie in the image.
            vocabulary: K classes.
            tasks: which results to make.
            options: instead of the segmenter's own.
            void_classes: so many classes at the end are void, see `with_distractors`.
        """
        masks = encoded.mask_logits.float().to(class_probabilities.device)
        return segment(
            class_probabilities,
            masks,
            proposals.frame,
            torch.tensor(vocabulary.is_thing, device=masks.device),
            tasks=tasks,
            options=options or self.inference,
            void_classes=void_classes,
        ).cpu()

    def text_embeddings(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The words of a vocabulary in CLIP's space; the last few vocabularies are kept.

        Args:
            vocabulary: at least one class.

        Raises:
            VocabularyError: a word is too long for the text tower.
        """
        return self._words_of(vocabulary).embeddings

    def seen(self, vocabulary: Vocabulary) -> Bool[Tensor, " K"] | None:
        """True for the classes that training had masks of; None where nothing says so.

        What the vocabulary says itself counts first, then the training's words.

        Args:
            vocabulary: K classes.

        Raises:
            VocabularyError: a word is too long for the text tower.
        """
        return self._words_of(vocabulary).seen

    def _encoded(
        self, encoder: MaskEncoder, framed: FramedImage, proposals: Proposals
    ) -> EncodedMasks:
        with self._precision():
            encoded = encoder.encode(framed, proposals)
        return replace(encoded, embeddings=encoded.embeddings.float())

    def _precision(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.precision)
