"""Downloads against a server on this machine: whole, resumed, of another content, missing."""

import hashlib
import io
import zipfile

import pytest
from local_server import LocalServer

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


@pytest.fixture
def server(monkeypatch):
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(tagger_data, "SHA256", hashes)
    running = LocalServer(zipped(FILES))
    yield running
    running.close()


def test_a_pull_is_found_afterwards_and_done_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    folder = pull_tagger_data(server.url)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert tagger_folder() == folder
    assert pull_tagger_data(server.url) == folder
    assert server.asked == [(None, None)]


def test_a_broken_connection_is_told_and_the_next_pull_goes_on(server, tmp_path):
    server.breaks_after = 100
    with pytest.raises(InputError, match="try again"):
        pull_tagger_data(server.url, folder=tmp_path)
    folder = pull_tagger_data(server.url, folder=tmp_path)
    assert [wanted for wanted, _ in server.asked] == [None, "bytes=100-"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_a_download_that_was_whole_already_is_not_fetched_again(server, tmp_path):
    part = tmp_path / "taggers" / f"{NAME}.zip.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    pull_tagger_data(server.url, folder=tmp_path)
    assert server.asked == [(f"bytes={len(server.content)}-", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({**FILES, f"{NAME}.classes.json": b"[]"}), "has the SHA-256"),
        (zipped({"other": b""}), "not the zip of NLTK's tagger"),
        (b"<html>please log in</html>", "a web page came instead of the file"),
    ],
)
def test_another_content_is_refused_and_not_kept(server, tmp_path, content, message):
    server.content = content
    with pytest.raises(InputError, match=message):
        pull_tagger_data(server.url, folder=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_such_file_and_no_server_are_one_sentence_each(server, tmp_path):
    with pytest.raises(InputError, match=r"cannot be downloaded \(HTTP 404: Not Found\)"):
        pull_tagger_data(server.address + "/gone", folder=tmp_path)
    with pytest.raises(InputError, match="check the connection"):
        pull_tagger_data("http://127.0.0.1:9/tagger.zip", folder=tmp_path)


def test_a_download_without_end_is_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tagger_data, "MAX_ZIP_BYTES", 50)
    with pytest.raises(InputError, match="larger than the 50 bytes"):
        pull_tagger_data(server.url, folder=tmp_path)
