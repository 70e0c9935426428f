"""Official archives unpacked: member by member, nothing outside the folder, nothing twice."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ovseg_cli.errors import InputError, StorageError
from ovseg_cli.progress import progress
from ovseg_cli.storage import storage_errors

MOST_TIMES_LARGER = 200  # a member than its packed bytes; images and JSON stay far below
_SMALL = 1 << 20  # bytes that any member may have
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip or tar file; members that are there in full are not written again.

    Args:
        archive: with the ending .zip, .tar, .tar.gz or .tgz.
        folder: to unpack into.

    Raises:
        InputError: the archive is damaged or encrypted, or a member would leave the folder, is a
            link, or is packed beyond reason; nothing is unpacked then.
        StorageError: no space left, or the folder cannot be written.
    """
    with _members(archive) as members:
        todo = [member for member in members if not _there(folder / member.name, member.size)]
        if todo:
            _check_space(archive, folder, sum(member.size for member in todo))
        for member in progress(todo, title=archive.name, unit="file", shown=bool(todo)):
            with storage_errors(folder / member.name):
                _write(archive, member, folder / member.name)


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                yield [_in_zip(archive, packed, info) for info in _files_of_zip(packed)]
        else:
            with tarfile.open(archive) as packed_tar:
                yield list(_files_of_tar(archive, packed_tar))
    except _DAMAGED as error:
        found = str(error).partition("\n")[0].rstrip(":")
        raise InputError(f"{archive}: damaged or not complete ({found}); get it anew") from error


def _files_of_zip(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [
        info
        for info in packed.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]


def _in_zip(archive: Path, packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    _check_name(archive, info.filename)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{archive}: {info.filename!r} is a link; nothing was unpacked")
    if info.flag_bits & 1:
        raise InputError(f"{archive}: {info.filename!r} is encrypted; unpack it yourself")
    if info.file_size > max(_SMALL, MOST_TIMES_LARGER * info.compress_size):
        raise InputError(
            f"{archive}: {info.filename!r} grows from {info.compress_size:,} to "
            f"{info.file_size:,} bytes, which no dataset does; nothing was unpacked"
        )
    return _Member(info.filename, info.file_size, lambda: packed.open(info))


def _files_of_tar(archive: Path, packed: tarfile.TarFile) -> Iterator[_Member]:
    for info in packed:
        _check_name(archive, info.name)
        if info.isdir():
            continue
        if not info.isfile():
            raise InputError(f"{archive}: {info.name!r} is no plain file; nothing was unpacked")
        yield _Member(info.name, info.size, lambda info=info: packed.extractfile(info))  # type: ignore[misc]


def _check_name(archive: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name
    if outside:
        raise InputError(f"{archive}: {name!r} leaves the folder; nothing was unpacked")


def _check_space(archive: Path, folder: Path, size: int) -> None:
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise StorageError(
            f"{archive}: {size / 1e9:.1f} GB unpacked, but {free / 1e9:.1f} GB are free at {folder}"
        )


def _there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(archive: Path, member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        source = member.open()
        if source is None:
            raise InputError(f"{archive}: {member.name!r} cannot be read")
        with source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
