"""The work of a mining, batch by batch.

Both functions of a batch, `nouns_of_batch` and `pairs_of_batch`, are functions of the batch alone;
whoever runs them, in whatever order, writes the same shards: this process, or `ray_engine`'s many.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

from ovseg_cli.datasets.caption_records import CaptionRecord
from ovseg_cli.errors import InputError
from ovseg_cli.progress import progress

from .figures import Figures
from .image_nouns import ImageNouns, image_nouns, images_of_each_noun
from .nouns import NounOptions, Tagger
from .pairing import Pairing
from .shards import PairFiles

Record = dict[str, Any]
Shard = tuple[int, list[Record], Figures]  # a batch's number, its pairs and what it counted
Check = Callable[[], None]


def nouns_of_batch(
    records: Iterable[CaptionRecord],
    tagger: Tagger,
    options: NounOptions,
    captions: int | Literal["all"],
) -> list[ImageNouns]:
    """The nouns of a batch of captioned images.

    Args:
        records: the images.
        tagger: reads their captions.
        options: what counts as one noun.
        captions: how many captions of an image to read.
    """
    return [image_nouns(record, tagger, options, captions) for record in records]


def pairs_of_batch(
    images: Iterable[ImageNouns], pairing: Pairing, *, check: Check = lambda: None
) -> tuple[list[Record], Figures]:
    """The pairs of a batch of images; images that cannot be read are noted and left out.

    Args:
        images: with their nouns.
        pairing: finds the pairs of one.
        check: called before each image; may raise to stop.
    """
    figures, records = Figures(), list[Record]()
    for image in images:
        check()
        figures.add_image(image)
        if not image.nouns:
            continue
        try:
            found = pairing.pairs_of(image)
        except InputError as error:
            figures.failures.append({"image": image.image, "error": str(error)})
            continue
        figures.images_without_proposals += found.proposals == 0
        figures.pairs += len(found.records)
        figures.paired.update(record["noun"] for record in found.records)
        figures.spend(found.seconds)
        records += found.records
    return records, figures


def find_nouns(
    source: Iterable[CaptionRecord],
    files: PairFiles,
    read: Callable[[Sequence[CaptionRecord]], list[ImageNouns]],
    *,
    batch_images: int,
    check: Check = lambda: None,
) -> float:
    """Writes the nouns of every batch of images that no file has yet; returns the seconds spent.

    Args:
        source: all captioned images, in the same order every time.
        files: get the nouns.
        read: the nouns of a batch.
        batch_images: images of a batch.
        check: called before each batch; may raise to stop.
    """
    start = time.monotonic()
    if files.batches() is not None:
        return 0.0
    batches = 0
    for records in progress(_batches(source, batch_images), title="captions", unit="batch"):
        check()
        if not files.has_nouns(batches):
            files.write_nouns(batches, read(records))
        batches += 1
    files.all_read(batches)
    return time.monotonic() - start


def count_nouns(files: PairFiles) -> Counter[str]:
    """In how many images each noun stands, over all batches.

    Args:
        files: with the nouns of all batches.
    """
    total: Counter[str] = Counter()
    for batch in range(files.batches() or 0):
        total.update(images_of_each_noun(files.read_nouns(batch)))
    return total


def mine_batches(files: PairFiles, pairing: Pairing, *, check: Check = lambda: None) -> None:
    """Writes the shard of every batch that is not done, one after the other.

    Args:
        files: with the nouns of all batches.
        pairing: finds the pairs of an image.
        check: called before each image; may raise to stop.
    """
    write_shards(files, partial(_shards_here, files, pairing, check))


def write_shards(files: PairFiles, shards_of: Callable[[list[int]], Iterable[Shard]]) -> None:
    """Writes the shard of every batch that is not done, as soon as somebody has made it.

    Args:
        files: with the nouns of all batches.
        shards_of: makes the shards of these batches, in any order.
    """
    batches = files.batches() or 0
    waiting = [batch for batch in range(batches) if not files.is_done(batch)]
    with progress(title="pairs", unit="batch", total=batches, done=batches - len(waiting)) as bar:
        for batch, records, figures in shards_of(waiting):
            files.write_shard(batch, records, figures.to_json())
            bar.update()


def _shards_here(
    files: PairFiles, pairing: Pairing, check: Check, waiting: list[int]
) -> Iterator[Shard]:
    for batch in waiting:
        yield batch, *pairs_of_batch(files.read_nouns(batch), pairing, check=check)


def all_figures(files: PairFiles) -> Figures:
    """The figures of all batches together.

    Args:
        files: with all shards.
    """
    total = Figures()
    for batch in range(files.batches() or 0):
        total.add(Figures.from_json(files.figures(batch)))
    return total


def _batches(
    source: Iterable[CaptionRecord], batch_images: int
) -> Iterator[tuple[CaptionRecord, ...]]:
    records = iter(source)
    while batch := tuple(islice(records, batch_images)):
        yield batch
