"""How often a mined noun got the right mask, by the annotated masks of its image."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.metrics.proposal_recall import mask_iou
from ovseg_cli.structures import Sample, Vocabulary

RIGHT = 0.5


@dataclass
class MiningPrecision:
    """Counts pairs whose mask overlaps an annotated segment of the noun's class.

    A pair is judged where the image has an annotated segment of the class that the noun names; a
    noun that names no class, or one of which nothing is annotated there, says nothing.

    Attributes:
        class_of: the class index of each word that names one.
        right: judged pairs whose mask has an IoU above 0.5 with such a segment.
        judged: pairs that could be judged.
        not_annotated: pairs of a noun that names a class without a segment in its image.
        unknown: pairs of a noun that names no class.
    """

    class_of: dict[str, int]
    right: int = 0
    judged: int = 0
    not_annotated: int = 0
    unknown: int = 0
    _by_class: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "MiningPrecision":
        """Starts empty.

        Args:
            vocabulary: nouns are compared with all of its synonyms, without regard to case.
        """
        pairs = enumerate(vocabulary.synonyms)
        return cls({word.casefold(): index for index, words in pairs for word in words})

    def update(
        self, nouns: Sequence[str], masks: Bool[Tensor, "N H W"], sample: Sample | None
    ) -> None:
        """Counts the pairs of an image.

        Args:
            nouns: N of them, in the singular or as the vocabulary has them.
            masks: (N, H, W) one a noun.
            sample: the annotated image, None where nobody annotated it; crowds do not count.
        """
        annotated, labels = masks[:0], torch.zeros(0, dtype=torch.long)
        if sample is not None:
            kept = ~sample.is_crowd
            annotated, labels = sample.masks[kept], sample.labels[kept]
        for noun, mask in zip(nouns, masks, strict=True):
            label = self.class_of.get(noun.casefold())
            segments = annotated[labels == label] if label is not None else annotated[:0]
            if label is None:
                self.unknown += 1
            elif not len(segments):
                self.not_annotated += 1
            else:
                self._count(label, bool((mask_iou(mask[None], segments) > RIGHT).any()))

    def compute(self) -> dict[str, int | float]:
        """The counts; `precision` and `class_mean`, 0 to 1, are left out without judged pairs."""
        counts: dict[str, int | float] = {
            "judged": self.judged,
            "right": self.right,
            "not_annotated": self.not_annotated,
            "unknown": self.unknown,
        }
        if not self.judged:
            return counts
        shares = [right / judged for right, judged in self._by_class.values()]
        mean = sum(shares) / len(shares)
        return {**counts, "precision": self.right / self.judged, "class_mean": mean}

    def _count(self, label: int, is_right: bool) -> None:
        self.judged += 1
        self.right += is_right
        counts = self._by_class.setdefault(label, [0, 0])
        counts[0] += is_right
        counts[1] += 1
