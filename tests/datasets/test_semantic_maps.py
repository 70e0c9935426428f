"""Folders of images and label maps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Vocabulary

CLASSES = Vocabulary(("sky", "dog", "cat"), (("sky",), ("dog",), ("cat",)), (False, True, True))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An 8 bit map with sky, cat and void, and a 16 bit map with dog and void."""
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b.1"):
        Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "images" / f"{name}.jpg")
    Image.fromarray(np.array([[0, 0, 2], [2, 255, 0]], np.uint8)).save(tmp_path / "maps" / "a.png")
    wide = np.array([[1, 1, 65535], [1, 1, 1]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "maps" / "b.1.tif")
    return tmp_path


def maps(root: Path, file: str | None = None) -> SemanticMaps:
    return SemanticMaps(root, "val", CLASSES, images="images", maps="maps", file=file)


def test_a_map_is_one_mask_a_class_and_its_greatest_value_is_void(root: Path) -> None:
    first, second = maps(root)
    assert first.labels.tolist() == [0, 2]
    assert first.masks.tolist() == [
        [[True, True, False], [False, False, True]],
        [[False, False, True], [True, False, False]],
    ]
    assert second.labels.tolist() == [1]
    assert second.masks.sum() == 5
    assert second.file_name == "b.1.jpg"
    assert first.image.shape == (3, 2, 3)
    assert maps(root).name.endswith("-val")


@pytest.mark.parametrize("text", ["b.1\n", "b.1.jpg\n\n", "\ufeffb.1.jpg\r\n"])
def test_a_list_names_the_images_to_read(root: Path, text: str) -> None:
    (root / "val.txt").write_text(text, encoding="utf-8")
    assert [sample.file_name for sample in maps(root, "val.txt")] == ["b.1.jpg"]


def test_a_list_may_name_images_in_folders(root: Path) -> None:
    for folder, ending in (("images", "jpg"), ("maps", "png")):
        (root / folder / "town").mkdir()
        (root / folder / f"a.{ending}").rename(root / folder / "town" / f"a.{ending}")
    (root / "val.txt").write_text("town/a.jpg\nb.1\n")
    assert maps(root, "val.txt").map_path(0) == root / "maps" / "town" / "a.png"


def test_cameras_write_large_endings_and_macos_hidden_files(root: Path) -> None:
    (root / "images" / "a.jpg").rename(root / "images" / "a.JPG")
    for hidden in ("images/._c.jpg", "maps/._a.png"):
        (root / hidden).write_bytes(b"of the Finder")
    dataset = maps(root)
    assert [sample.file_name.lower() for sample in dataset] == ["a.jpg", "b.1.jpg"]
    assert dataset.images_without_map() == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb.1\na.png\n", r"val\.txt: line 4: a is there already, line 1"),
        ("a\n../maps/a\n", r"val\.txt: line 2: file_name '../maps/a' leaves the data folder"),
        ("/etc/a.png\n", r"val\.txt: line 1: file_name '/etc/a\.png' leaves the data folder"),
    ],
)
def test_a_line_of_a_list_that_cannot_be_used_is_named(root: Path, text: str, message: str) -> None:
    (root / "val.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        maps(root, "val.txt")


def test_a_value_without_class_is_refused(root: Path) -> None:
    Image.fromarray(np.full((2, 3), 3, np.uint8)).save(root / "maps" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: value 3, but there are 3 classes, from 0"):
        maps(root)[0]


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"list\.txt: cannot be read as a list of images"):
        maps(root, "list.txt")
    (root / "images" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"images: no a with ending \.jpg, \.jpeg, \.png"):
        maps(root)
    with pytest.raises(InputError, match=r"other: no such folder; it should hold .* label maps"):
        SemanticMaps(root, "val", CLASSES, images="images", maps="other")


def test_a_picture_is_no_label_map(root: Path) -> None:
    Image.new("RGB", (3, 2)).save(root / "maps" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: a label map has one channel .*, not RGB"):
        maps(root)[0]
