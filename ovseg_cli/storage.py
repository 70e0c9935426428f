"""Writing files whole or not at all: a temporary name, a sync, a rename."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import OvsegError, StorageError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder without permission into one clear sentence.

    Raises:
        StorageError: there is no space for `path`, or its folder cannot be written.
    """
    try:
        yield
    except OvsegError:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageError(
                f"{path}: no space left on the disk; free some, or choose another folder"
            ) from error
        if error.errno in NOT_WRITABLE:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"{path}: a file stands where a folder is needed; choose another folder"
            ) from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is synced and becomes `path`.

    Whatever goes wrong, `path` keeps its earlier content and the temporary file is removed.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `folder`, which is new or empty; on success it becomes it.

    Raises:
        StorageError: no space left, or the folder above cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with storage_errors(folder):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if folder.exists():
                folder.rmdir()
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all (see `writing`)."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all (see `writing`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _sync(path: Path) -> None:
    # Windows syncs nothing that is only read; elsewhere a link to a read-only file is synced, too
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """What can be had again is kept here: OVSEG_CACHE, or ovseg in XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("OVSEG_CACHE") or f"{base}/ovseg").expanduser()
