"""Each noun of an image with the proposal that CLIP likes best.

OVSeg (Liang et al., CVPR 2023), section 3.2: the nouns of an image's captions, the masked proposals
of a segmenter, and for each noun the proposal whose embedding is nearest to the noun's. Neither a
floor under the similarity nor a choice among equals is published; here the first of equals wins.
A pair's mask is where the proposal's probability is above one half, whatever the mask encoder's
`threshold` makes of the crop that CLIP looks at.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco_mask
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.datasets.caption_records import read_captioned_image
from ovseg_cli.mask_encoders.masked_crops import boxes_of
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import Frame
from ovseg_cli.upsampling import tiles

from .image_nouns import ImageNouns
from .noun_embeddings import NounEmbeddings

Cosine = Annotated[float, Field(ge=-1, le=1)]
Record = dict[str, Any]


@dataclass(frozen=True)
class PairingOptions:
    """Which of the masks a noun gets.

    Attributes:
        floor: the least similarity of noun and masked crop, a cosine; None for no floor.
        pairs_per_noun: how many masks a noun of an image gets, the best first.
    """

    floor: Cosine | None = None
    pairs_per_noun: PositiveInt = 1


@dataclass(frozen=True)
class Choice:
    """A noun and a mask by their indices, and their similarity."""

    noun: int
    mask: int
    score: float


@dataclass(frozen=True)
class ImagePairs:
    """What an image gave.

    Attributes:
        records: a JSON-like record a pair, see `datasets.mined_pairs`.
        proposals: masks that could be paired.
        seconds: by part of the work.
    """

    records: tuple[Record, ...]
    proposals: int
    seconds: dict[str, float]


def best_masks(
    noun_embeddings: Float[Tensor, "U D"],
    mask_embeddings: Float[Tensor, "N D"],
    usable: Bool[Tensor, " N"],
    options: PairingOptions,
) -> list[Choice]:
    """The best masks of every noun, noun after noun, the best mask first.

    Args:
        noun_embeddings: (U, D) of unit length; a zero row gets no mask.
        mask_embeddings: (N, D) of any length.
        usable: (N,) False where a mask is empty.
        options: how many, and how good they have to be.
    """
    indices = usable.nonzero()[:, 0]
    if not len(indices) or not len(noun_embeddings):
        return []
    cosines = noun_embeddings @ F.normalize(mask_embeddings[indices], dim=-1).T  # (U, N)
    ranked = cosines.sort(dim=1, descending=True, stable=True)
    readable = noun_embeddings.any(1).tolist()
    least = -np.inf if options.floor is None else options.floor
    return [
        Choice(noun, int(indices[place]), score)
        for noun in range(len(noun_embeddings))
        if readable[noun]
        for place, score in zip(
            ranked.indices[noun, : options.pairs_per_noun].tolist(),
            ranked.values[noun, : options.pairs_per_noun].tolist(),
            strict=True,
        )
        if score >= least
    ]


@dataclass(frozen=True)
class Pairing:
    """Pairs the nouns of images with their proposals.

    Attributes:
        segmenter: its proposer finds masks, its mask encoder brings them into CLIP's space.
        embeddings: of every noun.
        options: which masks a noun gets.
        images: the folder of the images.
    """

    segmenter: Segmenter
    embeddings: NounEmbeddings
    options: PairingOptions
    images: Path

    @torch.inference_mode()
    def pairs_of(self, image: ImageNouns) -> ImagePairs:
        """The pairs of one image, a function of the image and its nouns alone.

        Args:
            image: with at least one noun.

        Raises:
            InputError: the image cannot be read.
        """
        clock = _Clock()
        pixels = read_captioned_image(self.images, image.image, image.size)
        clock.note("read")
        masks, embeddings, usable = self._proposals(pixels, clock)
        nouns = self.embeddings.rows(image.nouns)
        choices = best_masks(nouns, embeddings, usable, self.options)
        packed = _packed(masks, sorted({choice.mask for choice in choices}))
        records = tuple(
            {
                "image": image.image,
                "image_id": image.image_id,
                "caption": image.captions[choice.noun],
                "noun": image.nouns[choice.noun],
                **packed[choice.mask],
                "score": round(choice.score, 6),
            }
            for choice in choices
        )
        clock.note("choose")
        return ImagePairs(records, int(usable.sum()), clock.seconds)

    def _proposals(
        self, pixels: UInt8[Tensor, "3 H W"], clock: "_Clock"
    ) -> tuple[Tensor, Tensor, Tensor]:
        framed = self.segmenter.frame(pixels)
        proposals = self.segmenter.propose(framed)
        clock.note("propose")
        encoded = self.segmenter.encode(framed, proposals)
        masks = _inside(encoded.mask_logits, proposals.frame)
        usable = encoded.valid.cpu() & masks.flatten(1).any(1)
        found = masks, encoded.embeddings.float().cpu(), usable
        clock.note("encode")
        return found


class _Clock:
    """Seconds by part of the work; on a GPU they count where the result is waited for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = now - self._last
        self._last = now


def _inside(mask_logits: Float[Tensor, "N h w"], frame: Frame) -> Bool[Tensor, "N H W"]:
    """What is inside, on the CPU: a byte a pixel and mask, whatever the size of the image."""
    masks = torch.zeros(len(mask_logits), *frame.original, dtype=torch.bool)
    for tile in tiles(mask_logits.float(), frame):
        masks[:, *tile.region] = (tile.logits > 0).cpu()
    return masks


def _packed(masks: Bool[Tensor, "N H W"], indices: list[int]) -> dict[int, Record]:
    """Run lengths, box and area of some masks."""
    if not indices:
        return {}
    chosen = masks[indices]
    columns = np.asfortranarray(chosen.permute(1, 2, 0).numpy().astype(np.uint8))
    rles, boxes = coco_mask.encode(columns), boxes_of(chosen).tolist()
    areas = chosen.flatten(1).sum(1).tolist()
    return {
        index: {
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
            "box": box,
            "area": area,
        }
        for index, rle, box, area in zip(indices, rles, boxes, areas, strict=True)
    }
