"""From what classifiers say of masks to class probabilities.

MasQCLIP (Xu et al., ICCV 2023), section 3: a softmax over the classes and a background word, times
the object score; the background's share is dropped and not given to the classes. FC-CLIP (Yu et
al., NeurIPS 2023), section 3.3: a second classifier beside it, and the ensemble of the two.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg_cli.cosine_logits import (
    ClassifierLogits,
    ClassTexts,
    Synonyms,
    class_texts,
    in_vocabulary_logits,
)
from ovseg_cli.ensemble import (
    Ensemble,
    Mean,
    ensemble_log_probabilities,
    ensemble_weights,
    product_log_probabilities,
    seen_product_log_probabilities,
)
from ovseg_cli.errors import RecipeError
from ovseg_cli.recipe import Share
from ovseg_cli.structures import EncodedMasks, Proposals, TextEmbeddings

Classifier = Literal["out_of_vocabulary", "in_vocabulary"]


def class_log_probabilities(
    logits: Float[Tensor, "N K"],
    *,
    has_background: bool,
    object_scores: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "N C"]:
    """Log of the softmax over all columns, the background's then dropped, times the object score.

    Args:
        logits: (N, K) the background's column last, if there is one.
        has_background: whether there is one; then C = K - 1, else C = K.
        object_scores: (N,) 0 to 1; None leaves them out.
    """
    log_probabilities = logits.log_softmax(-1)
    if has_background:
        log_probabilities = log_probabilities[:, :-1]
    if object_scores is None:
        return log_probabilities
    return log_probabilities + _log_scores(object_scores)


def class_probabilities(
    logits: Float[Tensor, "N K"],
    *,
    has_background: bool,
    object_scores: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "N C"]:
    """The exponential of `class_log_probabilities`; a row sums to its object score or less.

    Args:
        logits: (N, K) the background's column last, if there is one.
        has_background: whether there is one; then C = K - 1, else C = K.
        object_scores: (N,) 0 to 1; None leaves them out.
    """
    return class_log_probabilities(
        logits, has_background=has_background, object_scores=object_scores
    ).exp()


@dataclass(frozen=True)
class Classification:
    """How a recipe classifies masks.

    The out-of-vocabulary classifier is the mask encoder's; the in-vocabulary one is that of the
    proposer's own embeddings, or of the encoder in the recipe's section `in_vocabulary`.

    Attributes:
        scale: CLIP's temperature: a number, or `clip` for what CLIP learned, 100 at most.
        background: the word that takes what is no class of the vocabulary; None for no such word.
        synonyms: `mean` of a class's texts or `max` of their logits.
        object_score: whether a proposal's object score multiplies its class probabilities.
        classifier: which of the two speaks where there is no ensemble. Each then takes off the
            share of its own background or void, if it has one.
        ensemble: the mean of the two: `geometric` or `arithmetic` (FC-CLIP); `product` (OVSeg, and
            MAFT as released: not normalised again, the void's share weighted like the classes');
            `seen_product` (MAFT's equation 9: unseen classes are CLIP's alone, to the power of
            beta); or `none`. With MAFT's one weight w, alpha is 1 - w and beta is w. The share of
            the in-vocabulary classifier's void is otherwise taken off whatever the weights, and a
            background of the out-of-vocabulary one is left out. Masks that the in-vocabulary
            classifier does not know, such as annotated ones, are left to the other.
        alpha: the out-of-vocabulary classifier's weight on classes seen in training.
        beta: its weight on the others.
        ensemble_on_valid: whether that weight is 0 on masks about which the encoder has nothing to
            say (FC-CLIP's ResNets).
    """

    scale: float | Literal["clip"] = 100.0
    background: str | None = "background"
    synonyms: Synonyms = "mean"
    object_score: bool = True
    classifier: Classifier = "out_of_vocabulary"
    ensemble: Ensemble = "none"
    alpha: Share = 0.4
    beta: Share = 0.8
    ensemble_on_valid: bool = False

    @property
    def needs_in_vocabulary(self) -> bool:
        """Whether the in-vocabulary classifier has a say."""
        return self.ensemble != "none" or self.classifier == "in_vocabulary"

    @property
    def temperature(self) -> float:
        """The scale as a number.

        Raises:
            ValueError: it is the CLIP's, see `with_scale_of`.
        """
        if self.scale == "clip":
            raise ValueError("the scale is the CLIP's own: call with_scale_of first")
        return self.scale

    def with_scale_of(self, learned: float) -> "Classification":
        """The same with a number as scale.

        Args:
            learned: the CLIP's own, taken where the scale is `clip`.
        """
        return replace(self, scale=min(learned, 100.0)) if self.scale == "clip" else self

    def logits(
        self,
        encoded: EncodedMasks,
        proposals: Proposals,
        texts: ClassTexts,
        *,
        in_vocabulary: EncodedMasks | None = None,
    ) -> ClassifierLogits:
        """What both classifiers say.

        Args:
            encoded: N masks by the out-of-vocabulary encoder.
            proposals: the same N masks, with their object scores and their own embeddings, if any.
            texts: the vocabulary's, with the background's where this has one.
            in_vocabulary: the same N masks by another encoder, in the place of the proposals' own
                embeddings; its background is the void.
        """
        return ClassifierLogits(
            in_vocabulary_logits(proposals, texts, self.temperature, encoded=in_vocabulary),
            texts.logits(encoded.embeddings, self.temperature),
            texts.has_background,
            encoded.valid,
            proposals.scores,
        )

    def combine(
        self,
        logits: ClassifierLogits,
        *,
        seen: Bool[Tensor, " K"] | None = None,
        classes: Bool[Tensor, " K"] | None = None,
    ) -> Float[Tensor, "N K"]:
        """The class probabilities of N masks; runs no network.

        Args:
            logits: what the classifiers say.
            seen: (K,) True where training had masks of a class; not needed where alpha is beta.
            classes: (K,) True for the classes that there are to choose from, before every softmax;
                the others get 0. None for all.

        Raises:
            RecipeError: an ensemble that needs to know which classes were seen.
        """
        if classes is None:
            return self._combined(logits, seen)
        found = logits.out_of_vocabulary.new_zeros((len(logits.valid), logits.classes))
        seen = None if seen is None else seen[classes]
        found[:, classes] = self._combined(logits.of_classes(classes), seen)
        return found

    def probabilities(
        self,
        encoded: EncodedMasks,
        proposals: Proposals,
        text_embeddings: TextEmbeddings,
        *,
        seen: Bool[Tensor, " K"] | None = None,
        in_vocabulary: EncodedMasks | None = None,
    ) -> Float[Tensor, "N C"]:
        """The class probabilities of every mask.

        Without an ensemble they are zero where the encoder found the mask invalid.

        Args:
            encoded: N masks.
            proposals: the same N masks, with their object scores.
            text_embeddings: the vocabulary's, with the background's row where this has one.
            seen: see `combine`.
            in_vocabulary: see `logits`.
        """
        texts = class_texts(text_embeddings, self.synonyms)
        logits = self.logits(encoded, proposals, texts, in_vocabulary=in_vocabulary)
        return self.combine(logits, seen=seen)

    def _combined(
        self, logits: ClassifierLogits, seen: Bool[Tensor, " K"] | None
    ) -> Float[Tensor, "N K"]:
        scores = logits.object_scores if self.object_score else None
        ours = logits.in_vocabulary
        if ours is None or not self.needs_in_vocabulary:
            probabilities = class_probabilities(
                logits.out_of_vocabulary,
                has_background=logits.has_background,
                object_scores=scores,
            )
            return probabilities * logits.valid[:, None]
        if self.ensemble == "none":
            return class_probabilities(ours, has_background=True, object_scores=scores)
        found = self._joined(logits, ours, seen)
        return (found if scores is None else found + _log_scores(scores)).exp()

    def _joined(
        self, logits: ClassifierLogits, ours: Tensor, given: Bool[Tensor, " K"] | None
    ) -> Float[Tensor, "N K"]:
        clips = logits.out_of_vocabulary[:, : logits.classes]
        seen = self._seen(logits, given)
        weights = ensemble_weights(seen, alpha=self.alpha, beta=self.beta)[None]
        if self.ensemble_on_valid:
            weights = torch.where(logits.valid[:, None], weights, 0.0)
        if self.ensemble == "product":
            return product_log_probabilities(ours, clips, weights, logits.valid)
        if self.ensemble == "seen_product":
            return seen_product_log_probabilities(ours, clips, weights, logits.valid, seen)
        mean: Mean = "arithmetic" if self.ensemble == "arithmetic" else "geometric"
        return ensemble_log_probabilities(ours, clips, weights, mean=mean)

    def _seen(
        self, logits: ClassifierLogits, given: Bool[Tensor, " K"] | None
    ) -> Bool[Tensor, " K"]:
        if given is not None:
            return given
        if self.alpha == self.beta and self.ensemble != "seen_product":
            return logits.valid.new_ones(logits.classes)
        raise RecipeError(
            f"[classification] {self.ensemble} with alpha {self.alpha} and beta {self.beta}: "
            "nothing says which classes were seen in training; set vocabulary.training to the "
            "class list of the training, or ensemble to another one and alpha and beta to one "
            "number"
        )


def _log_scores(object_scores: Float[Tensor, " N"]) -> Float[Tensor, "N 1"]:
    floor = torch.finfo(object_scores.dtype).tiny
    return object_scores.clamp(min=floor).log()[:, None]
