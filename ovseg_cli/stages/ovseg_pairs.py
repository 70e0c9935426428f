"""Where the pairs of mask and noun come from: captions that were mined, or annotations.

OVSeg (Liang et al., CVPR 2023), section 3.2 and table 2. Masks stay run lengths or PNGs until they
are asked for: nothing is read out of the colour of a filling.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, UInt8
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import read_rgb
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import InputError
from ovseg_cli.stages.ovseg_options import OvsegOptions


class MaskedImage(NamedTuple):
    """An image and one mask of it.

    Attributes:
        pixels: RGB.
        mask: True inside.
    """

    pixels: UInt8[Tensor, "3 H W"]
    mask: Bool[Tensor, "H W"]


@runtime_checkable
class Pairs(Protocol):
    """Pairs of mask and noun by their index."""

    def __len__(self) -> int: ...

    def noun(self, index: int) -> str:
        """The noun of a pair, from memory."""
        ...

    def read(self, index: int) -> MaskedImage:
        """The image and the mask of a pair; may be called from several threads."""
        ...


class CaptionPairs:
    """Mined pairs, those that the options let through.

    Args:
        pairs: finished.
        options: which captions, the floor under scores, and how many images stay decoded.

    Raises:
        InputError: no pair is let through.
    """

    def __init__(self, pairs: MinedPairs, options: OvsegOptions) -> None:
        self.pairs = pairs
        self._kept = array("Q", _let_through(pairs, options))
        if not self._kept:
            raise InputError(
                f"{pairs.folder}: {len(pairs)} pairs, none of them of the captions and scores that "
                "[tune_clip] captions and least_score ask for; relax these, or mine again"
            )
        self._pixels = lru_cache(options.cached_images)(self._read_pixels)

    def __len__(self) -> int:
        return len(self._kept)

    def noun(self, index: int) -> str:
        """The noun of a pair, from memory."""
        return self.pairs.noun(self._kept[index])

    def read(self, index: int) -> MaskedImage:
        """The image and the mask of a pair.

        Raises:
            InputError: the image or the run lengths cannot be read.
        """
        pair = self.pairs[self._kept[index]]
        return MaskedImage(self._pixels(pair.image, pair.size), pair.mask())

    def _read_pixels(self, name: str, size: tuple[int, int]) -> Tensor:
        return read_rgb(self.pairs.images / name, size)


def _let_through(pairs: MinedPairs, options: OvsegOptions) -> Sequence[int]:
    if options.captions == "all" and options.least_score is None:
        return range(len(pairs))
    captions = float("inf") if options.captions == "all" else options.captions
    least = -1.0 if options.least_score is None else options.least_score
    return [i for i, p in enumerate(pairs) if p.caption < captions and p.score >= least]


class AnnotatedPairs:
    """Annotated masks that are no crowd, each with the first name of its class.

    Args:
        dataset: all its annotations are taken; see `part` of `CocoDataset`.
        cached_images: that stay decoded, with their masks.

    Raises:
        InputError: there is no annotated mask.
    """

    def __init__(self, dataset: CocoDataset, *, cached_images: int = 0) -> None:
        self._dataset = dataset
        self._places = [
            (index, place, dataset.class_of[segment["category_id"]])
            for index, record in enumerate(dataset.records)
            for place, segment in enumerate(record.segments)
            if not segment.get("iscrowd", 0)
        ]
        if not self._places:
            raise InputError(
                f"{dataset.name}: no annotated masks of seen classes to learn; use another split"
            )
        self._samples = lru_cache(cached_images)(dataset.__getitem__)

    def __len__(self) -> int:
        return len(self._places)

    def noun(self, index: int) -> str:
        """The name of a pair's class."""
        return self._dataset.vocabulary.synonyms[self._places[index][2]][0]

    def read(self, index: int) -> MaskedImage:
        """The image and the mask of a pair.

        Raises:
            InputError: the image or the mask cannot be read.
        """
        image, place, _ = self._places[index]
        sample = self._samples(image)
        return MaskedImage(sample.image, sample.masks[place])


class JoinedPairs:
    """Several sources of pairs, one after the other.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def noun(self, index: int) -> str:
        """The noun of a pair, from memory."""
        part, own = self._place(index)
        return part.noun(own)

    def read(self, index: int) -> MaskedImage:
        """The image and the mask of a pair."""
        part, own = self._place(index)
        return part.read(own)

    def _place(self, index: int) -> tuple[Pairs, int]:
        for part in self._parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)
