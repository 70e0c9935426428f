"""The files of a mining that begins anew and is cut off while it removes what was there."""

from pathlib import Path

import pytest

from ovseg_cli.mining import shards
from ovseg_cli.mining.shards import PairFiles


class Killed(Exception):
    pass


def mined(folder: Path) -> PairFiles:
    """Files of two finished batches."""
    files = PairFiles(folder)
    files.begin("these settings", restart=False)
    for batch in (0, 1):
        files.write_nouns(batch, [])
        files.write_shard(batch, [{"noun": "dog"}], {})
    files.all_read(2)
    return files


def test_the_same_settings_keep_what_is_there(tmp_path: Path) -> None:
    mined(tmp_path).begin("these settings", restart=False)
    files = PairFiles(tmp_path)
    assert files.batches() == 2
    assert files.is_done(0)
    assert files.shard(1).is_file()


@pytest.mark.parametrize(("settings", "restart"), [("others", False), ("these settings", True)])
def test_what_is_removed_by_halves_is_not_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, restart: bool
) -> None:
    """Shards are gone, and the notes that they are done still there: the first settings return."""
    files = mined(tmp_path)

    def killed(folder: Path, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shards.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            files.begin(settings, restart=restart)
    assert files.is_done(0)
    assert not files.shard(0).is_file()
    files.begin("these settings", restart=False)
    assert not files.is_done(0)
    assert files.batches() is None
