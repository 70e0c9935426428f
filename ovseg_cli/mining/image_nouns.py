"""From captions to the nouns of each image, in batches that do not know of one another."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ovseg_cli.datasets.caption_records import CaptionRecord

from .nouns import NounOptions, Tagger, nouns_of


@dataclass(frozen=True)
class ImageNouns:
    """An image and the different nouns of its captions.

    Attributes:
        image: the file's name relative to the image folder.
        image_id: its id.
        size: (height, width) in pixels, if known.
        nouns: in the order in which they first stand.
        captions: for each noun the index of the caption in which it first stands.
        counts: nouns of each of the captions that were read.
    """

    image: str
    image_id: int
    size: tuple[int, int] | None
    nouns: tuple[str, ...]
    captions: tuple[int, ...]
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {**self.__dict__, "size": self.size and list(self.size)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ImageNouns":
        """The reverse of `to_json`."""
        size = value["size"] and (int(value["size"][0]), int(value["size"][1]))
        lists = {key: tuple(value[key]) for key in ("nouns", "captions", "counts")}
        return cls(value["image"], value["image_id"], size, **lists)


def image_nouns(
    record: CaptionRecord, tagger: Tagger, options: NounOptions, captions: int | Literal["all"]
) -> ImageNouns:
    """The different nouns of an image's first captions.

    Args:
        record: an image and its captions.
        tagger: reads them.
        options: what counts as one noun.
        captions: how many captions to read.
    """
    texts = record.captions if captions == "all" else record.captions[:captions]
    first: dict[str, int] = {}
    counts = []
    for index, text in enumerate(texts):
        found = nouns_of(tagger.tag(text), options)
        counts.append(len(found))
        for noun in found:
            first.setdefault(noun, index)
    return ImageNouns(
        record.image,
        record.image_id,
        record.size,
        tuple(first),
        tuple(first.values()),
        tuple(counts),
    )


def images_of_each_noun(batch: Iterable[ImageNouns]) -> Counter[str]:
    """In how many images each noun stands.

    Args:
        batch: images with their nouns.
    """
    return Counter(noun for image in batch for noun in image.nouns)
