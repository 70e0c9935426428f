"""`ovseg features`: clusters of dense features, drawn."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext

from ovseg_cli.cli import main
from ovseg_cli.errors import UsageError
from ovseg_cli.recipe import Recipe
from ovseg_cli.rendering.grids import Row, picture_grid
from ovseg_cli.stages import features as stage
from ovseg_cli.stages.features import cluster_maps

CONVNEXT, TRANSFORMER = tiny_convnext(), tiny_clip()
HALVES = torch.zeros(3, 64, 96, dtype=torch.uint8)
HALVES[0, :, 48:], HALVES[1, :, :48] = 255, 255


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(HALVES.permute(1, 2, 0).numpy()).save(path)
    return path


def test_maps_cover_the_image_at_each_size_and_keep_to_the_seed() -> None:
    first, again = (cluster_maps(CONVNEXT, HALVES, [64, 128], clusters=3) for _ in range(2))
    assert [one.size for one in first] == [(64, 96), (128, 192)]
    assert [one.labels.shape for one in first] == [(2, 3), (4, 6)]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert set(np.unique(one.labels)) <= {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_are_numbered_alike_from_size_to_size(seed: int) -> None:
    """The same size again is the same map, whatever k-means called its clusters."""
    first, second = cluster_maps(TRANSFORMER, HALVES, [64, 64], clusters=4, seed=seed)
    assert np.array_equal(first.labels, second.labels)
    areas = np.bincount(first.labels.ravel())
    assert areas[0] == areas.max()


def test_a_number_goes_to_the_most_similar_cluster_before() -> None:
    before = np.eye(3)
    centres = np.array([[0, 0.1, 0.9], [1, 0, 0.1], [0.1, 0.8, 0], [0.5, 0.5, 0.5]])
    labels = np.array([0, 1, 2, 3, 3])
    ordered, numbered = stage._numbered(centres, labels, before)
    assert numbered.tolist() == [2, 0, 1, 3, 3]
    assert np.array_equal(ordered[numbered], centres[labels])


def test_two_halves_of_plain_colour_fall_into_different_clusters() -> None:
    (found,) = cluster_maps(TRANSFORMER, HALVES, [64], clusters=2)
    left, right = found.labels[:, :6], found.labels[:, 6:]
    majority = [np.bincount(half.ravel(), minlength=2).argmax() for half in (left, right)]
    assert set(majority) == {0, 1}


def test_an_image_without_differences_has_as_few_clusters_as_it_has_directions() -> None:
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.visual.positional_embedding[1:] = 0
    (found,) = cluster_maps(clip, torch.zeros(3, 64, 64, dtype=torch.uint8), [64], clusters=4)
    assert found.labels.max() == 0


def test_what_cannot_be_clustered_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="--size 20: a cell of this CLIP's features is 32 pixels"):
        cluster_maps(CONVNEXT, HALVES, [20])
    with pytest.raises(UsageError, match=r"--clusters 8: at --size 64 .* only 2 x 3 cells"):
        cluster_maps(CONVNEXT, HALVES, [128, 64])


def test_a_grid_has_a_row_for_each_and_keeps_cells_sharp() -> None:
    two = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    page = np.asarray(picture_grid([Row("a", [(two, "x"), (two, "y")]), Row("b", [])], (40, 20)))
    red, blue = (page == [255, 0, 0]).all(2), (page == [0, 0, 255]).all(2)
    assert red.sum() == blue.sum() == 2 * 20 * 20


def test_the_command_draws_a_row_a_clip(
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stage, "load_open_clip", lambda **_: TRANSFORMER)
    monkeypatch.setattr(stage, "clip_of", lambda run, recipe: CONVNEXT)
    monkeypatch.setattr(stage.Run, "recipe", lambda self: Recipe("a"))
    (tmp_path / "recipe.yaml").touch()
    output = tmp_path / "out/features.png"
    words = ["--clip", str(tmp_path), "--clip", "ViT-B-16", "--size", "64", "--clusters", "2"]
    _ovseg("features", str(picture), *words, "-o", str(output), "--json", monkeypatch=monkeypatch)
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["picture"] == str(output)
    assert [row["clip"] for row in drawn["rows"]] == [str(tmp_path), "ViT-B-16 (random weights)"]
    assert [row["maps"][0]["grid"] for row in drawn["rows"]] == [[2, 3], [8, 12]]
    assert Image.open(output).width > 2 * stage.CELL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png", "--clip", "RN50"], "none.png: no such file"),
        (["{image}"], "no recipe.yaml there"),
        (["{image}", "--clip", "RN51"], "open_clip has no architecture 'RN51'"),
        (["{image}", "--clip", "RN50:none"], "the weights 'none' of RN50 cannot be loaded"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word.format(image=picture) for word in words]
    assert _ovseg("features", *given, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [picture]


def _ovseg(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | None:
    monkeypatch.setattr(sys, "argv", ["ovseg", *arguments])
    previous = signal.getsignal(signal.SIGTERM)
    try:
        main()
        return None
    except SystemExit as stopped:
        return stopped.code  # type: ignore[return-value]
    finally:
        signal.signal(signal.SIGTERM, previous)
