"""Archives unpacked: nothing twice, nothing outside the folder, nothing half."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from ovseg_cli.errors import InputError, StorageError
from ovseg_cli.stages.prepare import archives
from ovseg_cli.stages.prepare.archives import unpack


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """A zip or tar file, by its ending."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
def test_members_appear_in_their_folders(tmp_path: Path, name: str) -> None:
    archive = packed(tmp_path / name, {"maps/a.png": b"one", "maps/b.png": b"two", "c.txt": b""})
    unpack(archive, tmp_path / "data")
    assert (tmp_path / "data" / "maps" / "b.png").read_bytes() == b"two"
    names = sorted(path.name for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert names == ["a.png", "b.png", "c.txt"]


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
def test_what_is_there_in_full_is_not_written_again(tmp_path: Path, name: str) -> None:
    archive = packed(tmp_path / name, {"a.png": b"one", "b.png": b"two", "c.png": b"six"})
    (tmp_path / "a.png").write_bytes(b"own")  # as long as the member
    (tmp_path / "b.png").write_bytes(b"t")  # cut off
    (tmp_path / ".c.png.tmp").write_bytes(b"s")  # left by a killed process
    unpack(archive, tmp_path)
    contents = [(tmp_path / f"{letter}.png").read_bytes() for letter in "abc"]
    assert contents == [b"own", b"two", b"six"]
    assert not (tmp_path / ".c.png.tmp").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt"])
def test_a_member_that_leaves_the_folder_stops_all(tmp_path: Path, suffix: str, name: str) -> None:
    archive = packed(tmp_path / f"set{suffix}", {"a.png": b"one", name: b"bad"})
    with pytest.raises(InputError, match=r"leaves the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "out.txt").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        unpack(tmp_path / "set.zip", tmp_path / "data")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match="is no plain file"):
        unpack(tmp_path / "set.tar", tmp_path / "data")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "set.zip", {"a.png": bytes(8 << 20)})
    with pytest.raises(InputError, match=r"'a.png' grows from"):
        unpack(archive, tmp_path / "data")


def test_more_than_the_disk_holds_is_refused(tmp_path: Path, monkeypatch) -> None:
    archive = packed(tmp_path / "set.zip", {"a.png": b"one"})
    usage = archives.shutil._ntuple_diskusage(10, 8, 2)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="are free at"):
        unpack(archive, tmp_path / "data")


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_an_archive_that_was_cut_off_is_named(tmp_path: Path, name: str, share: float) -> None:
    members = {f"{i}.png": bytes(range(256)) * 40 for i in range(3)}
    archive = packed(tmp_path / name, members)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content.rstrip(b"\0")))])
    with pytest.raises(InputError, match=r"set\S+: damaged or not complete .*; get it anew"):
        unpack(archive, tmp_path / "data")


def test_a_page_in_place_of_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_text("<html>please log in</html>")
    with pytest.raises(InputError, match=r"set.zip: damaged or not complete"):
        unpack(tmp_path / "set.zip", tmp_path)


def test_a_damaged_member_is_not_left_half(tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", content)
    whole = (tmp_path / "set.zip").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "set.zip").write_bytes(whole[:middle] + b"\0\0\0" + whole[middle + 3 :])
    with pytest.raises(InputError, match="damaged or not complete"):
        unpack(tmp_path / "set.zip", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
