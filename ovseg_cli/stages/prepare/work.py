"""Files made of other files, in several processes; what is there already is not made again."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_cli.errors import InputError
from ovseg_cli.progress import progress
from ovseg_cli.stages.processes import results_of
from ovseg_cli.storage import storage_errors, writing

Record = dict[str, Any]
OLD = 60.0  # seconds; no living process has a temporary file for so long


@dataclass(frozen=True)
class Job:
    """Files to make of others.

    Attributes:
        sources: what is read; the name of the first one is the job's.
        targets: what is written, each whole or not at all; all there means done.
    """

    sources: tuple[Path, ...]
    targets: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What the job is called in a journal."""
        return self.sources[0].name

    @property
    def done(self) -> bool:
        """Whether every target is there."""
        return all(target.is_file() for target in self.targets)


def make_files(
    jobs: Sequence[Job], convert: Callable[[Job], None], *, title: str, workers: int = 1
) -> int:
    """Makes the files that are not there yet.

    Args:
        jobs: one an image.
        convert: does a job; a function of a module, or a partial of one.
        title: of the progress bar.
        workers: processes, see `results_of`.

    Returns:
        The number of files made now.

    Raises:
        OvsegError: the first job that fails, in the order of the jobs.
    """
    _tidy(jobs)
    todo = [job for job in jobs if not job.done]
    with progress(title=title, unit="image", total=len(jobs), done=len(jobs) - len(todo)) as bar:
        for _ in results_of(todo, convert, workers=workers):
            bar.update()
    return len(todo)


def make_records(
    jobs: Sequence[Job],
    convert: Callable[[Job], Record],
    journal: Path,
    *,
    title: str,
    workers: int = 1,
) -> list[Record]:
    """Makes the files that are not there yet, and tells about all of them.

    Args:
        jobs: one an image, their names are different; they may have no targets.
        convert: does a job and says what is in the file.
        journal: a file of JSON lines in which the records wait until all are there.
        title: of the progress bar.
        workers: processes, see `results_of`.

    Returns:
        A record a job, in their order.

    Raises:
        OvsegError: the first job that fails, in the order of the jobs.
    """
    _tidy(jobs)
    found = _journal(journal)
    todo = [job for job in jobs if not (job.done and job.name in found)]
    with (
        progress(title=title, unit="image", total=len(jobs), done=len(jobs) - len(todo)) as bar,
        storage_errors(journal),
    ):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            for job, record in zip(todo, results_of(todo, convert, workers=workers), strict=True):
                found[job.name] = record
                file.write(json.dumps([job.name, record]) + "\n")
                file.flush()
                bar.update()
    return [found[job.name] for job in jobs]


def link_or_copy(source: Path, target: Path) -> None:
    """The file under a second name: a hard link where the file system has them, else a copy.

    Raises:
        InputError: there is no such file.
        StorageError: no space left, or the folder cannot be written.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    with writing(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _tidy(jobs: Sequence[Job]) -> None:
    """Removes temporary files that a killed process left among the targets."""
    for folder in {target.parent for job in jobs for target in job.targets}:
        for path in folder.glob(".*.tmp.*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > OLD:
                    path.unlink()


def _journal(path: Path) -> dict[str, Record]:
    """The records of an earlier, unfinished run; of a line that was cut off nothing."""
    found: dict[str, Record] = {}
    if not path.is_file():
        return found
    whole: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            name, record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[name] = record
        whole.append(line + "\n")
    with writing(path) as temporary:
        temporary.write_text("".join(whole), encoding="utf-8")
    return found
