"""What a dataset is made of, where its publishers give it away, and where it is expected."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.archives import unpack


@dataclass(frozen=True)
class Download:
    """A part of a dataset as its publishers give it away.

    Attributes:
        path: of the unpacked file or folder, below the dataset's; "../" for beside it.
        page: where to get it.
        archive: the file that holds it, below the dataset's folder or beside it; None for none.
        into: where the archive is unpacked, below the dataset's folder; ".." for beside it.
    """

    path: str
    page: str
    archive: str | None = None
    into: str = "."


@dataclass(frozen=True)
class Prepared:
    """What is ready.

    Attributes:
        folder: the dataset's.
        counts: of what is there now, by kind and split.
        left_out: sentences about parts that could not be made, for want of a download.
    """

    folder: Path
    counts: dict[str, int]
    left_out: tuple[str, ...] = field(default=())


def required(folder: Path, download: Download) -> Path:
    """A part of a dataset; its archive is unpacked where that alone is there.

    Args:
        folder: the dataset's.
        download: the part.

    Raises:
        InputError: neither part nor archive is there: says where to get it and where to put it; or
            the archive cannot be unpacked.
        StorageError: no space left, or the folder cannot be written.
    """
    found = optional(folder, download)
    if found is None:
        also = f", or {download.archive} into {folder}" if download.archive else ""
        raise InputError(
            f"{_place(folder, download)}: not there; get it from {download.page} and put it "
            f"there{also} (--split names the parts to prepare)"
        )
    return found


def optional(folder: Path, download: Download) -> Path | None:
    """The same, but None where the part is not there.

    Raises:
        InputError: its archive cannot be unpacked.
        StorageError: no space left, or the folder cannot be written.
    """
    for place in (folder, folder.parent):
        archive = place / (download.archive or "")
        if download.archive and archive.is_file():
            unpack(archive, folder.parent if download.into == ".." else folder / download.into)
            break
    path = _place(folder, download)
    return path if path.exists() else None


def files_in(folder: Path, pattern: str, archive: str) -> list[Path]:
    """A folder's files by name, without the hidden ones that some systems put beside each.

    Args:
        folder: of a part that is there.
        pattern: of the files, below the folder.
        archive: that holds them, for messages.

    Raises:
        InputError: there is none.
    """
    found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no {pattern} in this folder; unpack {archive} anew")
    return sorted(found)


def _place(folder: Path, download: Download) -> Path:
    return Path(os.path.normpath(folder / download.path))
