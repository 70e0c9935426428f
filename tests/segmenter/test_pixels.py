"""The forms in which an image and a run directory are given to the Python API."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained_run import untrained_run

from ovseg_cli.errors import InputError, RunError, UsageError
from ovseg_cli.proposers import FolderMasks
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.segmenter.of_run import run_of
from ovseg_cli.segmenter.pixels import pixels_of

PIXELS = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def test_an_image_is_the_same_in_every_form(tmp_path: Path) -> None:
    array = PIXELS.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    read_only = np.asarray(picture)
    for form in (PIXELS, array, read_only, picture, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(pixels_of(form), PIXELS)
    assert torch.equal(pixels_of(np.flip(array, 1)), PIXELS.flip(2))
    assert torch.equal(pixels_of(picture.convert("L"))[0], pixels_of(picture.convert("L"))[2])


@pytest.mark.parametrize(("image", "said"), [
    (PIXELS.float(), r"tensor is \(3, H, W\) of uint8 RGB, and this one is \(3, 4, 5\) of float32"),
    (PIXELS.permute(1, 2, 0), r"this one is \(4, 5, 3\) of uint8"),
    (PIXELS.numpy(), r"array is \(H, W, 3\) of uint8 RGB, and this one is \(3, 4, 5\)"),
    (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\)"),
    (np.zeros((4, 5), np.uint8), r"\(4, 5\)"),
    (np.zeros((4, 5, 3), np.float64), "float64"),
    (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
])  # fmt: skip
def test_other_shapes_and_types_are_refused(image: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pixels_of(image)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png: no such file"):
        pixels_of(tmp_path / "nothing.png")


def test_a_path_is_a_run_directory_and_a_file_an_image(tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run")
    Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    result = Segmenter.from_run(str(folder)).predict(tmp_path / "a.png", "dog,cat")
    assert result.semantic.shape == (4, 5)
    assert run_of(folder).path == folder
    assert run_of(Run(folder)).path == folder
    with pytest.raises(RunError, match=r'no recipe\.yaml in it; give another, or "tiny"'):
        Segmenter.from_run(tmp_path / "none")


def test_tiny_is_the_model_in_the_box() -> None:
    assert run_of("tiny").recipe().section("clip")["name"] == "small"


def test_a_tile_as_large_as_the_image_changes_nothing(tmp_path: Path) -> None:
    segmenter = Segmenter.from_run(untrained_run(tmp_path))
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    whole = segmenter.predict(image, "dog,cat,sky:stuff")
    same = segmenter.predict(image, "dog,cat,sky:stuff", tile=56)
    assert torch.equal(same.panoptic, whole.panoptic)
    assert torch.equal(same.semantic, whole.semantic)
    assert torch.equal(same.instances.scores, whole.instances.scores)
    assert same.segments == whole.segments
    tiled = segmenter.predict(image, "dog,cat,sky:stuff", tile=32)
    assert tiled.panoptic.shape == tiled.semantic.shape == (40, 56)
    assert tiled.instances.masks.shape[1:] == (40, 56)
    ids = {segment.id for segment in tiled.segments}
    assert ids == set(tiled.panoptic.unique().tolist()) - {0}


def test_masks_on_file_are_of_whole_images(tmp_path: Path) -> None:
    segmenter = Segmenter.from_run(untrained_run(tmp_path), device="cpu")
    segmenter.proposer = FolderMasks(root=str(tmp_path))
    with pytest.raises(UsageError, match="--tile: masks on file are of whole images"):
        segmenter.predict(PIXELS, "dog", name="a.png", tile=32)
