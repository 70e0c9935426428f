"""Cosine of masks and words: what classifiers say before any softmax.

MasQCLIP (Xu et al., ICCV 2023), section 3: a class's texts are averaged. FC-CLIP (Yu et al.,
NeurIPS 2023), as released: a class has the best of its texts; the proposer's own embeddings, with a
temperature and a void of their own, are a second classifier.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.structures import EncodedMasks, Proposals, TextEmbeddings

Synonyms = Literal["mean", "max"]


@dataclass(frozen=True)
class ClassTexts:
    """A vocabulary's texts, made ready once for the masks of any number of images.

    Attributes:
        rows: (T, D) of unit length, a class's texts one after the other.
        counts: (K,) how many each class has; None where every class has one.
        has_background: True where the last class is the background.
        members: (K, M) the rows of each class, its last one again up to the largest count; None
            where every class has one.
    """

    rows: Float[Tensor, "T D"]
    counts: Int[Tensor, " K"] | None = None
    has_background: bool = False
    members: Int[Tensor, "K M"] | None = None

    def logits(
        self, mask_embeddings: Float[Tensor, "N D"], scale: float | Float[Tensor, ""]
    ) -> Float[Tensor, "N K"]:
        """Scaled cosine of every mask with every class, the best of the class's texts.

        Args:
            mask_embeddings: (N, D) one a mask, of any length.
            scale: CLIP's temperature.
        """
        logits = scale * F.normalize(mask_embeddings, dim=-1) @ self.rows.T  # (N, T)
        if self.counts is None:
            return logits
        if not len(logits):
            return logits[:, : len(self.counts)]
        if self.members is not None and torch.compiler.is_exporting():  # ONNX has no segments
            return logits[:, self.members].amax(-1)
        lengths = self.counts.expand(len(logits), -1).contiguous()
        return torch.segment_reduce(logits, "max", lengths=lengths, axis=1, unsafe=True)


def class_texts(text_embeddings: TextEmbeddings, synonyms: Synonyms = "mean") -> ClassTexts:
    """The texts as rows of unit length.

    Args:
        text_embeddings: one a text, of any length.
        synonyms: `mean` averages a class's texts before normalising (MasQCLIP), `max` keeps them,
            so that each mask takes the best of them (FC-CLIP).
    """
    has_background = text_embeddings.has_background
    if synonyms == "mean":
        return ClassTexts(class_embeddings(text_embeddings), None, has_background)
    rows = F.normalize(text_embeddings.embeddings, dim=-1)
    counts = text_embeddings.class_of.bincount()
    if len(counts) == len(rows):
        return ClassTexts(rows, None, has_background)
    places = torch.arange(int(counts.max()), device=rows.device)
    first = counts.cumsum(0) - counts
    members = first[:, None] + torch.minimum(places, counts[:, None] - 1)
    return ClassTexts(rows, counts, has_background, members)


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
        synonyms: see `class_texts`.
    """
    return class_texts(text_embeddings, synonyms).logits(mask_embeddings, scale)


def class_embeddings(text_embeddings: TextEmbeddings) -> Float[Tensor, "K D"]:
    """The mean of each class's texts, of unit length.

    Args:
        text_embeddings: one a text, of any length, which weighs them in the mean.
    """
    texts, class_of = text_embeddings.embeddings, text_embeddings.class_of
    sums = texts.new_zeros((int(class_of[-1]) + 1, texts.shape[1]))
    return F.normalize(sums.index_add(0, class_of, texts), dim=-1)


@dataclass(frozen=True)
class ClassifierLogits:
    """What the classifiers say of N masks, before any softmax: enough to combine them again.

    Attributes:
        in_vocabulary: (N, K+1) scaled, the void's column last; None where nothing gives them.
        out_of_vocabulary: (N, K) scaled, or (N, K+1) with a background.
        has_background: whether the last column of `out_of_vocabulary` is the background's.
        valid: (N,) False where the out-of-vocabulary encoder has nothing to say about a mask.
        object_scores: (N,) 0 to 1.
    """

    in_vocabulary: Float[Tensor, "N K1"] | None
    out_of_vocabulary: Float[Tensor, "N K2"]
    has_background: bool
    valid: Bool[Tensor, " N"]
    object_scores: Float[Tensor, " N"]

    @property
    def classes(self) -> int:
        """K, the number of classes without void and background."""
        return self.out_of_vocabulary.shape[1] - self.has_background

    def of_classes(self, classes: Bool[Tensor, " K"]) -> "ClassifierLogits":
        """The columns of some classes, and those of the void and the background.

        Args:
            classes: (K,) True for those that stay.
        """
        and_void = torch.cat([classes, classes.new_ones(1)])
        ours = self.in_vocabulary
        return replace(
            self,
            in_vocabulary=None if ours is None else ours[:, and_void],
            out_of_vocabulary=self.out_of_vocabulary[
                :, and_void if self.has_background else classes
            ],
        )


def words_shares(
    proposals: Proposals, texts: ClassTexts, *, scale: float
) -> Float[Tensor, " N"] | None:
    """One less the void's probability by the proposals' own embeddings; None without a void.

    Args:
        proposals: N masks.
        texts: the vocabulary's.
        scale: the temperature where the proposals bring none.
    """
    if proposals.no_object is None:
        return None
    logits = in_vocabulary_logits(proposals, texts, scale)
    return None if logits is None else logits.softmax(-1)[:, :-1].sum(-1)


def in_vocabulary_logits(
    proposals: Proposals,
    texts: ClassTexts,
    scale: float,
    *,
    encoded: EncodedMasks | None = None,
) -> Float[Tensor, "N K1"] | None:
    """What a classifier trained on the seen classes says, the void last; None without one.

    Args:
        proposals: N masks, with their own embeddings, if any.
        texts: the vocabulary's.
        scale: the temperature where the proposals bring none.
        encoded: the same N masks by another encoder, in the place of the proposals' own embeddings;
            its background is the void.
    """
    if encoded is not None:
        logits = texts.logits(encoded.embeddings, scale)
        return logits if texts.has_background else _without_void(logits)
    if proposals.embeddings is None:
        return None
    embeddings = proposals.embeddings.float()
    own = scale if proposals.logit_scale is None else proposals.logit_scale
    logits = texts.logits(embeddings, own)
    if texts.has_background:
        logits = logits[:, :-1]
    if proposals.no_object is None:
        return _without_void(logits)
    void = F.normalize(proposals.no_object.float()[None], dim=-1)
    return torch.cat([logits, ClassTexts(void).logits(embeddings, own)], 1)


def _without_void(logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K1"]:
    """A last column of probability 0."""
    return F.pad(logits, (0, 1), value=-torch.inf)
