"""Downloads against a server on this machine that does what servers and networks do."""

import errno
import hashlib
import shutil
from pathlib import Path

import pytest
from local_server import LocalServer

from ovseg_cli import downloads
from ovseg_cli.downloads import download
from ovseg_cli.errors import InputError, OvsegError, StorageError

CONTENT = bytes(range(256)) * 400
OTHER = bytes(reversed(CONTENT))


@pytest.fixture
def server():
    running = LocalServer(CONTENT)
    yield running
    running.close()


def is_known(path: Path) -> None:
    """Takes the two contents of these tests and no other."""
    digests = [hashlib.sha256(content).digest() for content in (CONTENT, OTHER)]
    if hashlib.sha256(path.read_bytes()).digest() not in digests:
        raise InputError(f"{path}: damaged")


def fetch(server, folder: Path, *, path="/file.bin", check=is_known, timeout=5.0, **options):
    options = {"max_bytes": 1_000_000, **options}
    download(server.address + path, folder / "file.bin", check=check, timeout=timeout, **options)
    return (folder / "file.bin").read_bytes()


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def broken(server, folder, after=1000, **options):
    server.breaks_after = after
    with pytest.raises(InputError, match=f"broke off after {after} of {len(CONTENT)} bytes"):
        fetch(server, folder, **options)
    assert files_in(folder) == {"file.bin.part", "file.bin.part.json"}


def test_a_whole_file_comes_whole_and_nothing_stays_beside_it(server, tmp_path):
    seen = []
    assert fetch(server, tmp_path, on_progress=lambda *done: seen.append(done)) == CONTENT
    assert files_in(tmp_path) == {"file.bin"}
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("etag", "modified"), [('"a"', None), (None, "Sat, 21 Nov 2026 10:00:00 GMT")]
)
def test_a_broken_download_goes_on_where_the_server_vouches_for_the_file(
    server, tmp_path, etag, modified
):
    server.etag, server.modified = etag, modified
    broken(server, tmp_path, exact=False)
    assert fetch(server, tmp_path, exact=False) == CONTENT
    assert server.asked == [(None, None), ("bytes=1000-", etag or modified)]


def test_a_broken_download_goes_on_where_the_content_is_known(server, tmp_path):
    broken(server, tmp_path)
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1] == ("bytes=1000-", None)


@pytest.mark.parametrize("etag", [None, 'W/"a"'])
def test_a_broken_download_that_nobody_vouches_for_is_fetched_anew(server, tmp_path, etag):
    server.etag = etag
    broken(server, tmp_path, exact=False)
    assert fetch(server, tmp_path, exact=False) == CONTENT
    assert server.asked[1] == (None, None)


def test_halves_of_two_files_are_never_joined(server, tmp_path):
    server.etag = '"old"'
    broken(server, tmp_path, check=lambda path: None, exact=False)
    server.content, server.etag = OTHER, '"new"'
    assert fetch(server, tmp_path, check=lambda path: None, exact=False) == OTHER


@pytest.mark.parametrize("etags", [('"old"', '"new"'), (None, None)])
def test_a_server_that_ignores_the_condition_is_seen_through(server, tmp_path, monkeypatch, etags):
    server.etag = etags[0]
    broken(server, tmp_path)
    server.content, server.etag = OTHER, etags[1]
    monkeypatch.setattr(server, "start_of", lambda wanted, condition: 1000 if wanted else 0)
    assert fetch(server, tmp_path) == OTHER
    assert [wanted for wanted, _ in server.asked] == [None, "bytes=1000-", None]


def test_a_server_that_sends_another_range_is_seen_through(server, tmp_path, monkeypatch):
    broken(server, tmp_path)
    monkeypatch.setattr(server, "start_of", lambda wanted, condition: 500 if wanted else 0)
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.etag, server.ranges = '"a"', False
    broken(server, tmp_path)
    assert fetch(server, tmp_path) == CONTENT


def test_a_part_of_another_address_is_not_gone_on_with(server, tmp_path):
    server.etag = '"a"'
    broken(server, tmp_path, path="/earlier")
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1] == (None, None)


def test_a_part_that_was_whole_is_checked_and_taken(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked == [(f"bytes={len(CONTENT)}-", None)]


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(OTHER + b"more")
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_that_stalls_is_told_and_the_next_attempt_goes_on(server, tmp_path):
    server.etag, server.stalls_after = '"a"', 70_000
    with pytest.raises(InputError, match=r"no answer for 0.2 seconds.*0.1 MB are here already"):
        fetch(server, tmp_path, timeout=0.2)
    assert (tmp_path / "file.bin.part").stat().st_size >= 65_536
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1][0] is not None


def test_an_interruption_keeps_the_part(server, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    server.etag = '"a"'
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, on_progress=interrupt)
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1][0] == "bytes=65536-"


def test_a_redirection_is_followed(server, tmp_path):
    server.redirects["/moved"] = "/file.bin"
    assert fetch(server, tmp_path, path="/moved") == CONTENT


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/moved", "in circles"),
        ("file:///etc/passwd", "to what is no web address"),
        ("ftp://127.0.0.1/file.bin", "to what is no web address"),
        ("/gone", "HTTP 404: Not Found"),
    ],
)
def test_a_redirection_to_nowhere_is_one_sentence(server, tmp_path, target, message):
    server.redirects["/moved"] = target
    with pytest.raises(InputError, match=message):
        fetch(server, tmp_path, path="/moved")
    assert files_in(tmp_path) == set()


def test_https_is_never_left_for_http():
    request = downloads.urllib.request.Request("https://a.example/x")
    with pytest.raises(downloads.urllib.error.HTTPError, match=r"to http://a\.example/y"):
        downloads._Redirects().redirect_request(
            request, None, 302, "Found", {}, "http://a.example/y"
        )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (403, "HTTP 403: Forbidden.*open it in a browser"),
        (404, "HTTP 404: Not Found.*open it in a browser"),
        (416, "HTTP 416"),
        (429, "HTTP 429: Too Many Requests.*try again later"),
        (500, "HTTP 500: Internal Server Error.*try again later"),
    ],
)
def test_a_servers_error_is_one_sentence_and_a_part_stays(server, tmp_path, code, message):
    server.etag = '"a"'
    server.code = code
    with pytest.raises(InputError, match=message):
        fetch(server, tmp_path)
    server.code = None
    broken(server, tmp_path)
    if code != 416:  # that is an answer to the range, and all is fetched anew
        server.code = code
        with pytest.raises(InputError, match=f"{message}.*0.0 MB are here already"):
            fetch(server, tmp_path)
        server.code = None
    assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>quota</p>", b"\n <html>log in</html>"])
def test_a_web_page_is_refused_and_costs_no_part(server, tmp_path, page):
    server.etag = '"a"'
    broken(server, tmp_path)
    server.content, server.ranges = page, False
    with pytest.raises(InputError, match="a web page came instead of the file"):
        fetch(server, tmp_path)
    server.content, server.ranges = CONTENT, True
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[-1][0] == "bytes=1000-"


def test_another_content_is_refused_and_not_kept(server, tmp_path):
    server.content = b"something else"
    with pytest.raises(InputError, match="damaged"):
        fetch(server, tmp_path)
    assert files_in(tmp_path) == set()


def test_a_length_that_is_too_small_gives_no_file(server, tmp_path):
    server.claims = 1000
    with pytest.raises(InputError, match="damaged"):
        fetch(server, tmp_path)
    assert files_in(tmp_path) == set()


def test_a_length_that_is_too_large_is_a_broken_connection(server, tmp_path):
    server.claims = len(CONTENT) + 10
    with pytest.raises(InputError, match="broke off"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("claims", [None, 0])
def test_a_file_above_the_limit_is_refused_by_its_header_or_as_it_comes(server, tmp_path, claims):
    server.claims = claims
    with pytest.raises(InputError, match="larger than the 5000 bytes"):
        fetch(server, tmp_path, max_bytes=5000)
    assert files_in(tmp_path) == set()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"no space for 0.1 MB more, 0.0 MB are free"):
        fetch(server, tmp_path)
    assert files_in(tmp_path) == set()


def test_a_disk_that_fills_up_keeps_the_part(server, tmp_path, monkeypatch):
    def full(done, total):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.etag = '"a"'
    with pytest.raises(StorageError, match="no space left on the disk"):
        fetch(server, tmp_path, on_progress=full)
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1][0] == "bytes=65536-"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "weights.pkl"])
def test_what_is_no_web_address_is_refused(tmp_path, url):
    with pytest.raises(InputError, match="not a web address"):
        download(url, tmp_path / "file.bin", check=is_known, max_bytes=10)


def test_no_server_is_one_sentence(tmp_path):
    with pytest.raises(OvsegError, match="check the connection and try again"):
        download(
            "http://127.0.0.1:9/x", tmp_path / "file.bin", check=is_known, max_bytes=10, timeout=2.0
        )
