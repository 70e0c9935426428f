"""What a mining counts: of each batch, and of all of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .image_nouns import ImageNouns

TOP_NOUNS = 100
LISTED = 1000


@dataclass
class Figures:
    """Counts over images.

    Attributes:
        images: that have captions.
        captions: that were read.
        captions_without_nouns: of these.
        images_without_nouns: nothing was looked for in them.
        images_without_proposals: no proposal could be paired in them.
        pairs: that were found.
        failures: of images that could not be read: `image` and `error`.
        paired: pairs of each noun.
        seconds: by part of the work.
    """

    images: int = 0
    captions: int = 0
    captions_without_nouns: int = 0
    images_without_nouns: int = 0
    images_without_proposals: int = 0
    pairs: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    paired: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_image(self, image: ImageNouns) -> None:
        """Counts an image and its captions.

        Args:
            image: with its nouns.
        """
        self.images += 1
        self.captions += len(image.counts)
        self.captions_without_nouns += sum(count == 0 for count in image.counts)
        self.images_without_nouns += not image.nouns

    def add(self, other: "Figures") -> None:
        """Counts other images too.

        Args:
            other: of images that are not counted here yet.
        """
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures
        self.paired.update(other.paired)
        self.spend(other.seconds)

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Adds time.

        Args:
            seconds: by part of the work.
        """
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Figures":
        """The reverse of `to_json`."""
        return cls(**{**value, "paired": Counter(value["paired"])})

    def statistics(self, nouns: Counter[str]) -> dict[str, Any]:
        """Counts for people and programs; lists are cut.

        Args:
            nouns: in how many images each noun stands.
        """
        never = [noun for noun in ordered(nouns) if noun not in self.paired]
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "images_failed": len(self.failures),
            "unique_nouns": len(self.paired),
            "nouns_never_paired": len(never),
            "top_nouns": {noun: self.paired[noun] for noun in ordered(self.paired)[:TOP_NOUNS]},
            "never_paired": never[:LISTED],
            "failures": self.failures[:LISTED],
            "seconds": {part: round(spent, 2) for part, spent in sorted(self.seconds.items())},
        }


COUNTS = tuple(name for name, kind in Figures.__annotations__.items() if kind is int)


def ordered(nouns: Counter[str]) -> list[str]:
    """Nouns from the most frequent on, equals by the alphabet."""
    return sorted(nouns, key=lambda noun: (-nouns[noun], noun))


def noun_lines(nouns: Counter[str], paired: Counter[str]) -> Iterable[dict[str, Any]]:
    """A JSON-like record a noun, the most frequent first.

    Args:
        nouns: in how many images each stands.
        paired: pairs of each.
    """
    return ({"noun": n, "images": nouns[n], "pairs": paired[n]} for n in ordered(nouns))
