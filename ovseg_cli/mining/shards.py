"""The files of a mining: shards of pairs, and beside them what a killed run goes on from.

pairs/shard-00000.jsonl, ...   a line a pair; shard i is made of batch i of the images, whole
pairs/work/settings.json       the fingerprint of the settings that all of this was made with
pairs/work/nouns-00000.jsonl   batch i: the images with their nouns
pairs/work/nouns.json          how many batches there are, once all captions are read
pairs/work/done-00000.json     what batch i gave; written after its shard, it says that it is done

Which images a batch has is decided by the captions alone, so that no pair is lost or doubled
whenever a run is killed, and whoever makes a shard makes the same one.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_cli.errors import RunError
from ovseg_cli.storage import storage_errors, write_json, writing

from .image_nouns import ImageNouns

Record = dict[str, Any]


@dataclass(frozen=True)
class PairFiles:
    """The folder `pairs` of a run directory.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def work(self) -> Path:
        """The folder of what is needed while pairs are mined."""
        return self.folder / "work"

    @property
    def statistics(self) -> Path:
        """Counts of everything; it is there when all shards are."""
        return self.folder / "statistics.json"

    @property
    def manifest(self) -> Path:
        """What the pairs were mined from, and how."""
        return self.folder / "manifest.json"

    @property
    def noun_counts(self) -> Path:
        """A line a noun: images that have it, pairs that it got."""
        return self.folder / "nouns.jsonl"

    @property
    def export(self) -> Path:
        """The folder of the pairs in another trainer's form."""
        return self.folder / "openclip"

    def shard(self, batch: int) -> Path:
        """The pairs of a batch of images."""
        return self.folder / f"shard-{batch:05d}.jsonl"

    def begin(self, fingerprint: str, *, restart: bool) -> None:
        """Keeps what was made with the same settings, and removes everything else.

        Args:
            fingerprint: of all that decides the pairs.
            restart: whether to remove it in any case.
        """
        settings = self.work / "settings.json"
        if not restart and self._read(settings, default={}).get("fingerprint") == fingerprint:
            return
        with storage_errors(self.folder):  # the settings go first: nothing is kept by halves
            made = [settings, self.statistics, self.manifest, self.noun_counts]
            for path in [*made, *self.folder.glob("shard-*.jsonl")]:
                path.unlink(missing_ok=True)
            for folder in (self.work, self.export):
                shutil.rmtree(folder, ignore_errors=True)
        write_json(settings, {"fingerprint": fingerprint})

    def batches(self) -> int | None:
        """How many batches of images there are; None while captions are still to be read."""
        found = self._read(self.work / "nouns.json", default={}).get("batches")
        return None if found is None else int(found)

    def all_read(self, batches: int) -> None:
        """Notes that the nouns of all batches are there."""
        write_json(self.work / "nouns.json", {"batches": batches})

    def has_nouns(self, batch: int) -> bool:
        """Whether the captions of a batch are read."""
        return self._nouns(batch).is_file()

    def write_nouns(self, batch: int, images: Iterable[ImageNouns]) -> None:
        """Keeps the nouns of a batch of images."""
        _write_lines(self._nouns(batch), (image.to_json() for image in images))

    def read_nouns(self, batch: int) -> Iterator[ImageNouns]:
        """The images of a batch with their nouns.

        Raises:
            RunError: the file is damaged.
        """
        return map(ImageNouns.from_json, read_lines(self._nouns(batch)))

    def is_done(self, batch: int) -> bool:
        """Whether the shard of a batch is there."""
        return self._done(batch).is_file()

    def write_shard(self, batch: int, records: Iterable[Record], figures: Record) -> None:
        """Writes a batch's pairs and then that it is done.

        Args:
            batch: its number.
            records: its pairs.
            figures: see `figures`.
        """
        _write_lines(self.shard(batch), records)
        write_json(self._done(batch), figures)

    def figures(self, batch: int) -> Record:
        """What a batch gave.

        Raises:
            RunError: the file is damaged.
        """
        figures: Record = self._read(self._done(batch))
        return figures

    def _nouns(self, batch: int) -> Path:
        return self.work / f"nouns-{batch:05d}.jsonl"

    def _done(self, batch: int) -> Path:
        return self.work / f"done-{batch:05d}.json"

    def _read(self, path: Path, *, default: Any = None) -> Any:
        if default is not None and not path.is_file():
            return default
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _damaged(path) from error


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a file of JSON lines.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _damaged(path: Path) -> RunError:
    return RunError(f"{path}: missing or damaged; run 'ovseg mine-captions' with --restart")
