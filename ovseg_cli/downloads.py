"""Files from the web: resumed where they broke off, checked, and there whole or not at all."""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import InputError, StorageError
from .storage import storage_errors, write_json

BLOCK = 1 << 16
TIMEOUT = 30.0
HTTP_PARTIAL = 206
HTTP_RANGE_REFUSED = 416
_PAGES = (b"<!doctype html", b"<html")

Progress = Callable[[int, int | None], None]


class _AnotherFileError(Exception):
    """What the server has now is not what the part is of."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """From web address to web address only, and never from https down to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"http", "https"}):
            raise urllib.error.HTTPError(req.full_url, code, f"to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class _Part:
    """What a part on disk is of.

    Attributes:
        url: where it came from.
        validator: the server's ETag or date of the file, None where it has none that can be used.
        total: bytes of the whole file, where the server said.
    """

    url: str
    validator: str | None
    total: int | None


@dataclass(frozen=True)
class _Job:
    """What `download` is asked for; `part` grows until it is whole."""

    url: str
    part: Path
    check: Callable[[Path], None]
    max_bytes: int
    exact: bool
    timeout: float
    on_progress: Progress | None


def download(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], None],
    max_bytes: int,
    exact: bool = True,
    timeout: float = TIMEOUT,
    on_progress: Progress | None = None,
) -> None:
    """Fetches a file; what an earlier attempt got of it is not fetched again.

    Two halves are joined only where they are of one file: the server is asked by ETag or date, and
    where it has neither, `check` must know the content.

    Args:
        url: http or https.
        path: where the file goes once it is whole and checked; beside it `<name>.part` grows.
        check: raises an `InputError` where the file is not what it should be; it is then deleted.
        max_bytes: a larger file is refused.
        exact: whether `check` takes no other content, such as by its SHA-256.
        timeout: seconds without an answer.
        on_progress: is given the bytes that are there, and of how many where that is known.

    Raises:
        InputError: there is no such file, no connection, or another content.
        StorageError: no space left, or the folder cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url}: not a web address; give one that begins with https://")
    part = path.with_name(f"{path.name}.part")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(url, part, check, max_bytes, exact, timeout, on_progress)
    try:
        if not _is_fetched(job):
            _discard(part)
            _is_fetched(job)
    except (HTTPException, OSError) as error:
        raise _no_download(job, error) from error
    except _AnotherFileError as error:
        _discard(part)
        raise InputError(f"{url}: the server's answers do not fit together; try again") from error
    with storage_errors(path):
        os.replace(part, path)
        _discard(part)


def _is_fetched(job: _Job) -> bool:
    """False where an earlier part was of another file, so that all is to be fetched anew."""
    known = _known_part(job)
    try:
        went_on = _fetch(job, known)
    except _AnotherFileError:
        if known is None:
            raise
        return False
    try:
        job.check(job.part)
    except InputError:
        if went_on:
            return False  # two halves that do not fit, for all that the server said
        _discard(job.part)
        raise
    return True


def _known_part(job: _Job) -> _Part | None:
    """What is known of a part that can be gone on with; None where it is to be fetched anew."""
    if not job.part.is_file() or not job.part.stat().st_size:
        return None
    try:
        known = _Part(**json.loads(_facts(job.part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = _Part(job.url, None, None)
    return known if known.url == job.url and (known.validator or job.exact) else None


def _fetch(job: _Job, known: _Part | None) -> bool:
    """Makes the part whole; True where it went on from what was there."""
    there = job.part.stat().st_size if known else 0
    headers = {"User-Agent": "ovseg"}
    if known:
        headers["Range"] = f"bytes={there}-"
        headers |= {"If-Range": known.validator} if known.validator else {}
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer = opener.open(urllib.request.Request(job.url, headers=headers), None, job.timeout)
    except urllib.error.HTTPError as error:
        if error.code == HTTP_RANGE_REFUSED and known:
            _check_whole(error.headers, there)
            return True  # nothing follows what is there already
        raise
    with answer:
        start = there if known and answer.status == HTTP_PARTIAL else 0
        total = None if answer.length is None else start + answer.length
        found = _Part(job.url, _validator(answer.headers), total)
        if answer.status == HTTP_PARTIAL:
            _check_rest(answer.headers, known, found, start)
        _check_size(job, total, start)
        _copy(job, answer, start, found)
    return start > 0


def _check_whole(headers: Message, there: int) -> None:
    total = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", ""))
    if total and int(total[1]) != there:
        raise _AnotherFileError


def _check_rest(headers: Message, known: _Part | None, found: _Part, start: int) -> None:
    """That a partial answer is what follows the part, of the same file."""
    asked = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    if known is None or asked is None or int(asked[1]) != start:
        raise _AnotherFileError
    same = all(
        then in (None, now) for then, now in zip(_of_file(known), _of_file(found), strict=True)
    )
    if not same:
        raise _AnotherFileError


def _of_file(part: _Part) -> tuple[str | int | None, ...]:
    return part.validator, part.total


def _check_size(job: _Job, total: int | None, start: int) -> None:
    if total is None:
        return
    if total > job.max_bytes:
        raise _too_large(job)
    free = shutil.disk_usage(job.part.parent).free
    if total - start > free:
        raise StorageError(
            f"{job.part.parent}: no space for {megabytes(total - start)} more, {megabytes(free)} "
            "are free; free some, or set OVSEG_CACHE to another folder"
        )


def _copy(job: _Job, answer: HTTPResponse, start: int, found: _Part) -> None:
    block = answer.read(BLOCK)
    if not start:
        _refuse_page(job.url, block)
        write_json(_facts(job.part), asdict(found))
    got = start
    with storage_errors(job.part), job.part.open("ab" if start else "wb") as file:
        while block and got <= job.max_bytes:
            got += file.write(block)
            if job.on_progress:
                job.on_progress(got, found.total)
            block = answer.read(BLOCK)
    if got > job.max_bytes:
        _discard(job.part)
        raise _too_large(job)
    if found.total is not None and got < found.total:
        raise OSError(f"the connection broke off after {got} of {found.total} bytes")


def _refuse_page(url: str, block: bytes) -> None:
    if block.lstrip()[:20].lower().startswith(_PAGES):
        raise InputError(
            f"{url}: a web page came instead of the file (a login, a quota, a network that asks "
            "something first); open it in a browser to see, and download the file there"
        )


def _too_large(job: _Job) -> InputError:
    return InputError(f"{job.url}: larger than the {job.max_bytes} bytes that it should have")


def _validator(headers: Message) -> str | None:
    """What If-Range takes: a strong ETag, else the date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _facts(part).unlink(missing_ok=True)


def _no_download(job: _Job, error: Exception) -> InputError:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        reason = f"no answer for {job.timeout:g} seconds"
    mend = "check the connection and try again"
    if isinstance(error, urllib.error.HTTPError):
        reason, mend = f"HTTP {error.code}: {reason}", _mend_of(error.code)
    if job.part.is_file():
        mend += f"; {megabytes(job.part.stat().st_size)} are here already, it goes on from there"
    return InputError(f"{job.url}: cannot be downloaded ({reason}); {mend}")


def _mend_of(code: int) -> str:
    if code // 100 == 3:
        return "the server sends us in circles, or to what is no web address; try another source"
    if code // 100 == 5 or code == 429:
        return "the server is in trouble or busy; try again later"
    return "the server does not give it; open it in a browser to see why"


def megabytes(count: int) -> str:
    """A number of bytes for people.

    Args:
        count: bytes.
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
