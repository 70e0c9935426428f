"""Files from the web: resumed where they broke off, checked, and there whole or not at all."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from .errors import InputError
from .storage import storage_errors

BLOCK = 1 << 16
TIMEOUT = 30.0
HTTP_PARTIAL = 206
HTTP_RANGE_REFUSED = 416


def download(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], None],
    max_bytes: int,
    timeout: float = TIMEOUT,
) -> None:
    """Fetches a file; what an earlier attempt got of it is not fetched again.

    Args:
        url: http or https.
        path: where the file goes once it is whole and checked; beside it `<name>.part` grows.
        check: raises an `InputError` where the file is not what it should be; it is then deleted.
        max_bytes: a larger file is refused.
        timeout: seconds without an answer.

    Raises:
        InputError: there is no such file, no connection, or another content.
        StorageError: no space left, or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part, max_bytes, timeout)
        check(part)
    except (HTTPException, OSError) as error:
        raise _no_download(url, error) from error
    except InputError:
        part.unlink(missing_ok=True)
        raise
    with storage_errors(path):
        os.replace(part, path)


def _fetch(url: str, part: Path, max_bytes: int, timeout: float) -> None:
    there = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), None, timeout)
    except urllib.error.HTTPError as error:
        if error.code == HTTP_RANGE_REFUSED and there:
            return  # nothing follows what is there already; the check decides
        raise
    with answer:
        goes_on = there and answer.status == HTTP_PARTIAL
        with storage_errors(part), part.open("ab" if goes_on else "wb") as file:
            _copy(answer, file, max_bytes, url)


def _copy(answer: HTTPResponse, file: IO[bytes], max_bytes: int, url: str) -> None:
    expected = answer.length
    got = 0
    while block := answer.read(BLOCK):
        file.write(block)
        got += len(block)
        if file.tell() > max_bytes:
            raise InputError(f"{url}: larger than the {max_bytes} bytes that it should have")
    if expected is not None and got < expected:
        raise OSError(f"the connection broke off after {got} of {expected} bytes")


def _no_download(url: str, error: Exception) -> InputError:
    reason = getattr(error, "reason", None) or error
    return InputError(f"{url}: cannot be downloaded ({reason}); check the connection and try again")
