"""`ovseg datasets prepare`."""

import json
from pathlib import Path

import pytest
from official import columns, image, png
from typer.testing import CliRunner

from ovseg_cli.cli import app
from ovseg_cli.datasets.known import known_datasets
from ovseg_cli.errors import OvsegError, UsageError
from ovseg_cli.stages.prepare.preparations import PREPARATIONS


def run(*arguments: str):
    return CliRunner().invoke(app, ["datasets", "prepare", *arguments])


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """ADE20K's label maps without its instance maps."""
    folder = tmp_path / "ADEChallengeData2016"
    image(folder / "images" / "validation" / "a.jpg")
    png(folder / "annotations" / "validation" / "a.png", columns(0, 1))
    return tmp_path


def test_what_is_ready_and_what_was_left_out(scenes: Path) -> None:
    options = ["ade20k_150", "--data", str(scenes), "--split", "validation", "--workers", "1"]
    shown = run(*options)
    assert shown.exit_code == 0
    assert "validation label maps" in shown.stdout
    assert "no panoptic and instance annotations" in shown.stderr.replace("\n", " ")
    figures = json.loads(run(*options, "--json").stdout)
    assert figures["folder"] == str(scenes / "ADEChallengeData2016")
    assert figures["counts"] == {"validation label maps": 1}
    assert len(figures["left_out"]) == 1


def test_the_folder_of_the_datasets_is_that_of_recipes(scenes: Path, monkeypatch) -> None:
    monkeypatch.setenv("OVSEG_DATA", str(scenes))
    assert run("ade20k-150", "--split", "validation", "--workers", "1").exit_code == 0


def test_what_is_missing_is_one_sentence(tmp_path: Path) -> None:
    error = run("cityscapes", "--data", str(tmp_path)).exception
    assert isinstance(error, OvsegError)
    assert "\n" not in str(error)
    assert isinstance(run("imagenet", "--data", str(tmp_path)).exception, UsageError)
    error = run("lvis", "--data", str(tmp_path / "nowhere")).exception
    assert str(error).startswith(f"--data {tmp_path / 'nowhere'}: no such folder")


def test_every_known_dataset_can_be_prepared_under_its_name() -> None:
    for dataset in known_datasets():
        prepared = PREPARATIONS[dataset.name]
        assert prepared.folder == dataset.root
        assert set(dataset.splits) <= set(prepared.splits)
