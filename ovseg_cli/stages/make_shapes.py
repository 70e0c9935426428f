"""`ovseg datasets make shapes`: writes the synthetic set in COCO's layout."""

import errno
import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ovseg_cli.datasets.shapes.coco_files import (
    Record,
    write_annotations,
    write_image,
    write_vocabulary,
    write_whole,
)
from ovseg_cli.datasets.shapes.splits import SPLITS, Split
from ovseg_cli.errors import RecipeError, StorageError, UsageError

_VERSION = 1
_SETTINGS = "annotations/shapes.json"


@dataclass(frozen=True)
class ShapesOptions:
    """What to make.

    Attributes:
        seed: of the whole set; same seed, same bytes.
        train: scenes with masks of the base classes.
        val: scenes with all masks, to choose settings on.
        test: scenes with all masks, to report.
        pairs_easy: single things on a plain background with captions.
        pairs_crop: close-ups of things, and bare stuff, with captions.
        pairs_window: up to three things or bare stuff with captions.
    """

    seed: int = 0
    train: int = 4000
    val: int = 500
    test: int = 500
    pairs_easy: int = 5000
    pairs_crop: int = 16000
    pairs_window: int = 16000


@dataclass(frozen=True)
class _Chunk:
    split: Split
    start: int
    stop: int

    @property
    def part(self) -> str:
        return f"{self.split.name}-{self.start:07d}.json"


def make_shapes(
    folder: Path,
    options: ShapesOptions,
    *,
    workers: int = 1,
    chunk_size: int = 500,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes the synthetic set; started again after an interruption it goes on where it stopped.

    Args:
        folder: new, empty, or begun with the same options.
        options: seed and number of images of each split.
        workers: processes that draw.
        chunk_size: images between two points to resume from.
        on_progress: called with the images done so far and in all.

    Returns:
        The number of images of each split.

    Raises:
        UsageError: the folder holds something else, or a number cannot be used.
        RecipeError: too many images, or fewer than none.
        StorageError: no space left or not writable.
    """
    counts = {split.name: int(asdict(options)[split.name]) for split in SPLITS}
    _check(counts, options.seed, workers)
    try:
        if not _begin(folder, options):
            _draw(folder, _chunks(counts, chunk_size), options.seed, workers, on_progress)
            _finish(folder, counts, chunk_size)
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise StorageError(f"{folder}: cannot write the synthetic set: {reason}") from error
    return counts


def _check(counts: dict[str, int], seed: int, workers: int) -> None:
    for name, count in counts.items():
        if not 0 <= count < 1_000_000:
            raise RecipeError(f"[shapes] {name}: {count} images; give 0 to 999999")
    if seed < 0:
        raise UsageError(f"--seed {seed}: give a number that is not negative")
    if workers < 1:
        raise UsageError(f"--workers {workers}: give at least 1")


def _begin(folder: Path, options: ShapesOptions) -> bool:
    """True if the set is already there; else the folder is ready to draw into."""
    settings = folder / _SETTINGS
    wanted = {"version": _VERSION, **asdict(options)}
    if settings.is_file():
        found = json.loads(settings.read_text())
        if {k: v for k, v in found.items() if k != "complete"} != wanted:
            raise UsageError(
                f"{folder}: holds a synthetic set made with other options; "
                "give another folder, or remove this one"
            )
        if found.get("complete"):
            return True
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not a synthetic set; give a new or empty folder")
    (folder / "annotations" / ".parts").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / split.name).mkdir(exist_ok=True)
        if split.masks != "none":
            (folder / "annotations" / f"panoptic_{split.name}").mkdir(exist_ok=True)
    write_whole(settings, json.dumps(wanted).encode())
    return False


def _chunks(counts: dict[str, int], chunk_size: int) -> Iterator[_Chunk]:
    for split in SPLITS:
        for start in range(0, counts[split.name], chunk_size):
            yield _Chunk(split, start, min(start + chunk_size, counts[split.name]))


def _draw_chunk(chunk: _Chunk, *, folder: Path, seed: int) -> int:
    path = folder / "annotations" / ".parts" / chunk.part
    if not path.exists():
        indices = range(chunk.start, chunk.stop)
        records = [write_image(folder, chunk.split, i, seed) for i in indices]
        write_whole(path, json.dumps(records).encode())
    return chunk.stop - chunk.start


def _draw(
    folder: Path,
    chunks: Iterator[_Chunk],
    seed: int,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    todo = list(chunks)
    total, done = sum(chunk.stop - chunk.start for chunk in todo), 0
    draw = partial(_draw_chunk, folder=folder, seed=seed)
    if workers == 1:
        for chunk in todo:
            done += draw(chunk)
            if on_progress:
                on_progress(done, total)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _leave_ctrl_c_to_the_parent) as pool:
        for count in pool.imap_unordered(draw, todo):
            done += count
            if on_progress:
                on_progress(done, total)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _finish(folder: Path, counts: dict[str, int], chunk_size: int) -> None:
    parts = folder / "annotations" / ".parts"
    records: dict[str, list[Record]] = {split.name: [] for split in SPLITS}
    for chunk in _chunks(counts, chunk_size):
        records[chunk.split.name] += json.loads((parts / chunk.part).read_text())
    write_vocabulary(folder)
    for split in SPLITS:
        write_annotations(folder, split, records[split.name])
    settings = folder / _SETTINGS
    write_whole(
        settings, json.dumps(json.loads(settings.read_text()) | {"complete": True}).encode()
    )
    shutil.rmtree(parts)
