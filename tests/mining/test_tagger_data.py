"""Downloads against a server on this machine: whole, resumed, of another content, missing."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ovseg_cli.errors import InputError
from ovseg_cli.mining import tagger_data
from ovseg_cli.mining.tagger_data import NAME, SHA256, pull_tagger_data, tagger_folder

FILES = {name: f'{{"{name}": 1}}'.encode() for name in SHA256}


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{NAME}/{name}", content)
    return buffer.getvalue()


class Server:
    """Serves bytes with ranges; `breaks_after` closes the first connection early."""

    def __init__(self, content):
        self.content, self.ranges, self.breaks_after = content, [], None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                start = server.range_of(self.headers.get("Range"))
                if self.path != "/tagger.zip":
                    return self.send_error(404)
                if start >= len(server.content):
                    return self.send_error(416)
                body = server.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                cut, server.breaks_after = server.breaks_after, None
                self.wfile.write(body[:cut])
                return None

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/tagger.zip"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def range_of(self, header):
        self.ranges.append(header)
        return int(header.removeprefix("bytes=").rstrip("-")) if header else 0


@pytest.fixture
def server(monkeypatch):
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(tagger_data, "SHA256", hashes)
    running = Server(zipped(FILES))
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_pull_is_found_afterwards_and_done_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    folder = pull_tagger_data(server.url)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert tagger_folder() == folder
    assert pull_tagger_data(server.url) == folder
    assert server.ranges == [None]


def test_a_broken_connection_is_told_and_the_next_pull_goes_on(server, tmp_path):
    server.breaks_after = 100
    with pytest.raises(InputError, match="try again"):
        pull_tagger_data(server.url, folder=tmp_path)
    folder = pull_tagger_data(server.url, folder=tmp_path)
    assert server.ranges == [None, "bytes=100-"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_a_download_that_was_whole_already_is_not_fetched_again(server, tmp_path):
    part = tmp_path / "taggers" / f"{NAME}.zip.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    pull_tagger_data(server.url, folder=tmp_path)
    assert server.ranges == [f"bytes={len(server.content)}-"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({**FILES, f"{NAME}.classes.json": b"[]"}), "has the SHA-256"),
        (zipped({"other": b""}), "not the zip of NLTK's tagger"),
        (b"<html>please log in</html>", "not the zip of NLTK's tagger"),
    ],
)
def test_another_content_is_refused_and_not_kept(server, tmp_path, content, message):
    server.content = content
    with pytest.raises(InputError, match=message):
        pull_tagger_data(server.url, folder=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_such_file_and_no_server_are_one_sentence_each(server, tmp_path):
    with pytest.raises(InputError, match=r"cannot be downloaded \(Not Found\)"):
        pull_tagger_data(server.url + ".gone", folder=tmp_path)
    with pytest.raises(InputError, match="check the connection"):
        pull_tagger_data("http://127.0.0.1:9/tagger.zip", folder=tmp_path)


def test_a_download_without_end_is_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tagger_data, "MAX_ZIP_BYTES", 50)
    with pytest.raises(InputError, match="larger than the 50 bytes"):
        pull_tagger_data(server.url, folder=tmp_path)
