"""Where the data of NLTK's English perceptron tagger are, and how they get here.

The data are three JSON files; the pickles of older releases are never read.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_cli.downloads import download
from ovseg_cli.errors import InputError
from ovseg_cli.storage import cache_folder, writing

NAME = "averaged_perceptron_tagger_eng"
URL = f"https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/taggers/{NAME}.zip"
MAX_ZIP_BYTES = 20_000_000
SHA256 = {
    f"{NAME}.classes.json": "d152ffa69d45b8357276341a3d592c6c025911d52ec0d9068d4f382560dd48b6",
    f"{NAME}.tagdict.json": "4c713731cb06727736962bc8cd94ad919217a040e76691059af99bc0c2c9c246",
    f"{NAME}.weights.json": "789e8e35f6fac656d9b7eccea29ba4e8a137cbb5b525dd31f39e4291a9e80832",
}
SIZES = {"classes": 10_000, "tagdict": 1_000_000, "weights": 50_000_000}


@dataclass(frozen=True)
class TaggerData:
    """The tagger's parameters, checked.

    Attributes:
        weights: of each class by feature.
        tagdict: words that have one tag only.
        classes: the tags.
        digest: tells these data from others, 16 hex digits.
    """

    weights: dict[str, dict[str, float]]
    tagdict: dict[str, str]
    classes: frozenset[str]
    digest: str


def tagger_folder() -> Path | None:
    """The folder of the tagger's three files; None where there is none.

    Looked for in NLTK_DATA, in ovseg's cache, and where NLTK keeps its data.
    """
    for base in _bases():
        folder = base / "taggers" / NAME
        if all((folder / name).is_file() for name in SHA256):
            return folder
    return None


def read_tagger_data(folder: Path) -> TaggerData:
    """Reads the tagger's JSON files.

    Args:
        folder: from `tagger_folder`.

    Raises:
        InputError: a file is damaged.
    """
    digest = hashlib.sha256()
    weights = _read(folder, "weights", dict, digest)
    tagdict = _read(folder, "tagdict", dict, digest)
    classes = _read(folder, "classes", list, digest)
    return TaggerData(weights, tagdict, frozenset(classes), digest.hexdigest()[:16])


def pull_tagger_data(url: str = URL, *, folder: Path | None = None) -> Path:
    """Downloads the tagger's data into ovseg's cache; nothing happens where they are there.

    Args:
        url: of NLTK's zip.
        folder: of the data, instead of the one in the cache.

    Returns:
        The folder of the three files.

    Raises:
        InputError: no connection, or the zip is not NLTK's.
        StorageError: no space left, or the folder cannot be written.
    """
    target = (folder or cache_folder() / "nltk_data") / "taggers" / NAME
    if all(_is_genuine(target / name, sha256) for name, sha256 in SHA256.items()):
        return target
    archive = target.with_suffix(".zip")
    download(url, archive, check=_check_zip, max_bytes=MAX_ZIP_BYTES)
    for name in SHA256:
        with writing(target / name) as temporary:
            temporary.write_bytes(_member(archive, name))
    archive.unlink()
    return target


def _bases() -> Iterator[Path]:
    named = os.environ.get("NLTK_DATA", "")
    yield from (Path(place) for place in named.split(os.pathsep) if place)
    yield cache_folder() / "nltk_data"
    yield from (Path(f"{place}/nltk_data").expanduser() for place in ("~", "/usr/share"))
    yield from (Path(place) for place in ("/usr/local/share/nltk_data", "/usr/lib/nltk_data"))


def _read(folder: Path, part: str, kind: type, digest: Any) -> Any:
    path = folder / f"{NAME}.{part}.json"
    mend = "delete it and run 'ovseg models pull nltk'"
    try:
        if path.stat().st_size > SIZES[part]:
            raise InputError(f"{path}: too large for the tagger's {part}; {mend}")
        content = path.read_bytes()
        value = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {mend}") from error
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds no {kind.__name__}; {mend}")
    digest.update(content)
    return value


def _is_genuine(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _check_zip(path: Path) -> None:
    for name, sha256 in SHA256.items():
        found = hashlib.sha256(_member(path, name)).hexdigest()
        if found != sha256:
            raise InputError(
                f"{path}: {name} has the SHA-256 {found[:16]}..., not {sha256[:16]}...; the "
                "download is damaged or NLTK has published other data: try again, or set NLTK_DATA "
                "to a folder that has them"
            )


def _member(path: Path, name: str) -> bytes:
    limit = SIZES[name.split(".")[1]]
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{NAME}/{name}") as file:
            content = file.read(limit + 1)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not the zip of NLTK's tagger ({error}); try 'ovseg models pull nltk' again"
        ) from error
    if len(content) > limit:
        raise InputError(f"{path}: {name} is larger than {limit} bytes")
    return content
