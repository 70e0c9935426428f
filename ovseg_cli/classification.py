"""From embeddings to class probabilities.

MasQCLIP (Xu et al., ICCV 2023), section 3: cosine logits over the classes and a background word,
times the object score; the background's share is dropped and not given to the classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import EncodedMasks, Proposals, TextEmbeddings

Synonyms = Literal["mean", "max"]


def class_logits(
    mask_embeddings: Float[Tensor, "N D"],
    text_embeddings: TextEmbeddings,
    *,
    scale: float = 100.0,
    synonyms: Synonyms = "mean",
) -> Float[Tensor, "N K"]:
    """Scaled cosine of every mask with every class, the background's column last if there is one.

    Args:
        mask_embeddings: (N, D) one a mask, of any length.
        text_embeddings: one a text, of any length.
        scale: CLIP's temperature; MasQCLIP's is 100.
        synonyms: `mean` averages a class's texts before normalising (MasQCLIP), `max` takes the
            best of them for each mask (FC-CLIP).
    """
    masks = F.normalize(mask_embeddings, dim=-1)
    class_of = text_embeddings.class_of
    classes = int(class_of[-1]) + 1
    if synonyms == "mean":
        return scale * masks @ class_embeddings(text_embeddings).T
    logits = scale * masks @ F.normalize(text_embeddings.embeddings, dim=-1).T  # (N, T)
    best = logits.new_full((len(masks), classes), -torch.inf)
    return best.scatter_reduce(1, class_of.expand(len(masks), -1), logits, "amax")


def class_embeddings(text_embeddings: TextEmbeddings) -> Float[Tensor, "K D"]:
    """The mean of each class's texts, of unit length.

    Args:
        text_embeddings: one a text, of any length, which weighs them in the mean.
    """
    texts, class_of = text_embeddings.embeddings, text_embeddings.class_of
    sums = texts.new_zeros((int(class_of[-1]) + 1, texts.shape[1]))
    return F.normalize(sums.index_add(0, class_of, texts), dim=-1)


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
    floor = torch.finfo(object_scores.dtype).tiny
    return log_probabilities + object_scores.clamp(min=floor).log()[:, None]


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

    Attributes:
        scale: CLIP's temperature.
        background: the word that takes what is no class of the vocabulary; None for no such word.
        synonyms: `mean` of a class's texts or `max` of their logits.
        object_score: whether a proposal's object score multiplies its class probabilities.
    """

    scale: float = 100.0
    background: str | None = "background"
    synonyms: Synonyms = "mean"
    object_score: bool = True

    def probabilities(
        self, encoded: EncodedMasks, proposals: Proposals, text_embeddings: TextEmbeddings
    ) -> Float[Tensor, "N C"]:
        """The class probabilities of every mask, zero where the encoder found it invalid.

        Args:
            encoded: N masks.
            proposals: the same N masks, with their object scores.
            text_embeddings: the vocabulary's, with the background's row where this has one.
        """
        logits = class_logits(
            encoded.embeddings, text_embeddings, scale=self.scale, synonyms=self.synonyms
        )
        probabilities = class_probabilities(
            logits,
            has_background=text_embeddings.has_background,
            object_scores=proposals.scores if self.object_score else None,
        )
        return probabilities * encoded.valid[:, None]
