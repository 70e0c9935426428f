"""`ovseg models pull`: what the catalogue knows, fetched into the caches and ready for --model."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from ovseg_cli.checkpoints.catalogue import CatalogueEntry, catalogue_entry
from ovseg_cli.downloads import download, megabytes
from ovseg_cli.errors import CheckpointError, InputError, UsageError
from ovseg_cli.mining.tagger_data import pull_tagger_data
from ovseg_cli.run import Run
from ovseg_cli.storage import cache_folder

from .models_here import how_to_get, hub_is_offline, missing_parts, place_of

MAX_BYTES = 10_000_000_000
HUB = "huggingface.co"

Consent = Callable[[str], bool | None]
"""Answers a question: yes, no, or None where nobody can be asked."""


def nobody(question: str) -> None:
    """The consent of a program that nobody watches."""
    return None


def pull_model(name: str, *, consent: Consent = nobody) -> Path:
    """Fetches an entry of the catalogue and the CLIP that it works with, as far as they lack.

    Args:
        name: of the entry.
        consent: is asked before anything is fetched, with sizes, licences and places.

    Returns:
        Where it is: a run directory, a CLIP's file, or a folder of data.

    Raises:
        UsageError: there is no such entry, or nobody has agreed.
        InputError: it can only be fetched by hand (the message says how), there is no connection,
            or another content came.
        StorageError: no space left, or a folder cannot be written.
    """
    entry = catalogue_entry(name)
    missing = missing_parts(entry)
    _check_can_be_pulled(name, missing)
    if missing:
        _ask(name, missing, consent)
    for part in missing:
        _pull(part)
    place = place_of(entry)
    if place is None:
        raise CheckpointError(f"{name}: fetched, and yet not there; was a cache emptied meanwhile?")
    return place


def size_of(parts: Sequence[CatalogueEntry]) -> str:
    """What is to be fetched, for people: each part with its size, host and licence.

    Args:
        parts: from `missing_parts`.
    """
    total = sum(part.size or 0 for part in parts)
    listed = [f"{part.name} from {_host(part)}, licence {part.terms}" for part in parts]
    return f"about {megabytes(total)} ({'; '.join(listed)})"


def _check_can_be_pulled(name: str, missing: Sequence[CatalogueEntry]) -> None:
    for part in missing:
        if part.page is not None:
            raise InputError(f"{name}: no program can fetch it; {how_to_get(part)}")
        if part.hub is not None and hub_is_offline():
            raise InputError(f"{part.name}: is not here, and HF_HUB_OFFLINE is set; unset it")


def _ask(name: str, missing: Sequence[CatalogueEntry], consent: Consent) -> None:
    answer = consent(f"{name}: download {size_of(missing)}?")
    if answer is None:
        raise UsageError(
            f"{name}: would download {size_of(missing)}; add --yes, or ask for it on a terminal"
        )
    if not answer:
        raise UsageError(f"{name}: not downloaded, as you said")


def _host(part: CatalogueEntry) -> str:
    return HUB if part.hub is not None else urlsplit(part.url or "").netloc


def _pull(part: CatalogueEntry) -> None:
    if part.hub is not None:
        from ovseg_cli.clip.hub_weights import fetch_open_clip  # takes seconds: after the question

        architecture, _, pretrained = part.name.partition(":")
        fetch_open_clip(architecture, pretrained)
    elif part.kind == "data":
        pull_tagger_data()
    else:
        _pull_released(part)


def _pull_released(part: CatalogueEntry) -> None:
    """Downloads a released file, makes a run directory of it, and deletes the file."""
    from .import_entry import import_entry

    assert part.url is not None
    file = cache_folder() / "downloads" / part.name / Path(urlsplit(part.url).path).name
    with Run(file.parent).lock():
        if not file.is_file():
            _download(part, part.url, file)
        try:
            import_entry(file, part.name)
        except CheckpointError:
            file.unlink()  # it is damaged, or not what the catalogue says: to be fetched again
            raise
        file.unlink()


def _download(part: CatalogueEntry, url: str, file: Path) -> None:
    def check(path: Path) -> None:
        if part.sha256 is not None and _sha256(path) != part.sha256:
            raise InputError(
                f"{url}: what came has another SHA-256 than the catalogue says, "
                f"{part.sha256[:16]}...; it is deleted: try again"
            )

    with tqdm(desc=part.name, unit="B", unit_scale=True, disable=None) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        exact = part.sha256 is not None
        download(url, file, check=check, max_bytes=MAX_BYTES, exact=exact, on_progress=show)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
