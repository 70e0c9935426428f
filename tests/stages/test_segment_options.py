"""`ovseg predict --background`, `--score-threshold` and `--tile`, into the files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained_run import untrained_run

from ovseg_cli.errors import UsageError
from ovseg_cli.rendering import overlay
from ovseg_cli.stages.predict import predict_command
from ovseg_cli.stages.prediction_files import segment_records
from ovseg_cli.stages.segment_options import SegmentOptions, segment_options
from ovseg_cli.structures import VOID, Segmentation
from ovseg_cli.vocabulary import parse_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("untrained") / "run")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_what_is_void_is_the_highest_number_of_the_png(
    tmp_path: Path, run: Path, picture: str
) -> None:
    records: list[dict[str, object]] = []
    predict_command(
        [picture],
        "xylophone,sky",
        run=run,
        folder=tmp_path / "out",
        tasks=["semantic", "panoptic", "instance"],
        background="threshold",
        score_threshold=0.99,
        on_record=records.append,
    )
    found = np.asarray(Image.open(tmp_path / "out" / "semantic" / "a.png"))
    assert 255 in found
    assert set(np.unique(found)) <= {0, 1, 255}
    assert records[0]["segments"] == []
    assert (tmp_path / "out" / "instances.jsonl").read_text() == ""
    assert np.asarray(Image.open(tmp_path / "out" / "panoptic" / "a.png")).max() == 0


def test_words_that_compete_are_in_no_file(tmp_path: Path, run: Path, picture: str) -> None:
    folder = tmp_path / "out"
    predict_command(
        [picture],
        "xylophone,sky",
        run=run,
        folder=folder,
        tasks=["semantic", "instance"],
        background="distractors",
    )
    assert [c["name"] for c in json.loads((folder / "categories.json").read_text())] == [
        "xylophone",
        "sky",
    ]
    found = np.asarray(Image.open(folder / "semantic" / "a.png"))
    assert 255 in found
    assert "tower" not in (folder / "instances.jsonl").read_text()


def test_tiles_are_segmented_and_joined(tmp_path: Path, run: Path, picture: str) -> None:
    for tile, name in ((None, "whole"), (60, "one"), (32, "many")):
        predict_command([picture], "dog,sky", run=run, folder=tmp_path / name, tile=tile)
    whole, one, many = (
        np.asarray(Image.open(tmp_path / name / "panoptic" / "a.png"))
        for name in ("whole", "one", "many")
    )
    assert (whole == one).all()
    assert many.shape == whole.shape
    assert (many != whole).any()


@pytest.mark.parametrize(("options", "said"), [
    ({"background": "blue"}, "--background blue: give none, threshold, distractors"),
    ({"score_threshold": 1.1}, "--score-threshold 1.1: give a number from 0 to 1"),
    ({"score_threshold": float("nan")}, "--score-threshold nan: give a number"),
    ({"tile": 8}, "--tile 8: give 32 pixels or more"),
])  # fmt: skip
def test_what_cannot_be_used_is_said(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        segment_options(**options)
    assert segment_options() == SegmentOptions("none", None, None)


def test_a_semantic_map_is_drawn_and_listed_without_its_void() -> None:
    semantic = torch.full((40, 40), VOID)
    semantic[:, 10:] = 1
    words, image = parse_labels("dog,sky"), torch.full((3, 40, 40), 128, dtype=torch.uint8)
    result = Segmentation(semantic=semantic)
    assert segment_records(result, words) == [{"label": "sky", "is_thing": False, "area": 1200}]
    drawn = np.asarray(overlay(image, result, words)).astype(int)
    nothing = np.asarray(overlay(image, Segmentation(semantic=semantic * 0 + VOID), words))
    assert (drawn[50:300, 10:60] == nothing[50:300, 10:60]).all()
    assert (drawn[50:300, 240:300] != nothing[50:300, 240:300]).any()
