"""PASCAL Context and VOC as they are published."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from official import SIZE, checked, columns, image, read_as_target, snapshot
from PIL import Image
from scipy.io import savemat

from ovseg_cli.datasets.known import known_dataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.pascal_context import value_table
from ovseg_cli.stages.prepare.preparations import prepare
from ovseg_cli.vocabulary import builtin_vocabulary

# the 59 classes' numbers among the 459, from 1, as MasQCLIP orders them
OF_459 = """
    2 9 18 19 22 23 25 31 33 34 44 45 46 59 65 68 72 80 85 98 104 105 113
    115 144 158 159 162 187 189 207 220 232 258 259 260 284 295 296 308 324 326
    347 349 354 355 360 366 368 397 415 416 420 424 427 440 445 454 458
"""


def maps_of(data: Path) -> Path:
    return data / "pascal_context_full" / "trainval"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """VOC 2010 with PASCAL Context's maps: accordion, aeroplane, table and void."""
    source = tmp_path / "VOCdevkit" / "VOC2010"
    (source / "ImageSets" / "Main").mkdir(parents=True)
    (source / "ImageSets" / "Main" / "val.txt").write_text("2008_000002\n2009_000003\n")
    (tmp_path / "pascal_context_full" / "trainval").mkdir(parents=True)
    for name, labels in (
        ("2008_000002", columns(1, 2, 397, 0, kind="uint16")),
        ("2009_000003", columns(459, kind="uint16")),
    ):
        savemat(maps_of(tmp_path) / f"{name}.mat", {"LabelMap": labels})
        image(source / "JPEGImages" / f"{name}.jpg")
    return source


def test_the_59_classes_are_the_published_ones_of_the_459() -> None:
    table, expected = value_table(59), [int(number) for number in OF_459.split()]
    assert [int(np.flatnonzero(table == index)[0]) for index in range(59)] == expected
    assert (table == 255).sum() == 460 - 59


def test_the_59_classes(context: Path, tmp_path: Path, monkeypatch) -> None:
    before = snapshot(context)
    assert prepare("pascal_context_59", tmp_path).counts == {"val label maps": 2}
    assert snapshot(context) == before
    dataset = read_as_target("masqclip", "pascal_context_59", tmp_path, monkeypatch)
    table = builtin_vocabulary("pascal_context_59").names.index("diningtable")
    assert dataset.label_map(0)[0].tolist() == [-1, 0, table, -1, -1, -1, -1, -1]
    assert dataset.label_map(1).unique().tolist() == [-1]
    assert dataset[0].image.shape == (3, *SIZE)


def test_the_459_classes_in_16_bits(context: Path, tmp_path: Path, monkeypatch) -> None:
    prepare("pascal_context_459", tmp_path)
    dataset = read_as_target("fcclip", "pascal_context_459", tmp_path, monkeypatch)
    assert dataset.label_map(0)[0].tolist() == [0, 1, 396, -1, -1, -1, -1, -1]
    assert dataset.label_map(1).unique().tolist() == [458]


def test_both_lists_share_the_images(context: Path, tmp_path: Path) -> None:
    prepare("pascal_context_59", tmp_path)
    copy = tmp_path / "pascal_context_full" / "images" / "2008_000002.jpg"
    written = copy.stat().st_mtime_ns
    prepare("pascal_context_459", tmp_path)
    assert copy.stat().st_mtime_ns == written
    assert copy.read_bytes() == (context / "JPEGImages" / "2008_000002.jpg").read_bytes()


def test_without_the_matlab_files_the_page_is_named(context: Path, tmp_path: Path) -> None:
    maps_of(tmp_path).rename(context / "elsewhere")
    with pytest.raises(InputError) as caught:
        prepare("pascal_context_59", tmp_path)
    assert str(maps_of(tmp_path)) in str(caught.value)
    assert "https://cs.stanford.edu/~roozbeh/pascal-context/" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"LabelMap": columns(460, kind="uint16")}, "2009_000003.mat: value 460"),
        ({"Labels": columns(1)}, "2009_000003.mat: no matrix of whole numbers 'LabelMap'"),
        ({"LabelMap": "text"}, "2009_000003.mat: no matrix of whole numbers 'LabelMap'"),
        ({"LabelMap": np.ones((6, 9), np.uint16)}, "2009_000003.jpg: the image is 6 x 8"),
    ],
)
def test_a_bad_file_is_named(context: Path, tmp_path: Path, content, sentence: str) -> None:
    savemat(maps_of(tmp_path) / "2009_000003.mat", content)
    with pytest.raises(InputError, match=sentence):
        prepare("pascal_context_59", tmp_path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC 2012 with an image: background, aeroplane, tvmonitor and void, as a palette PNG."""
    source = tmp_path / "VOCdevkit" / "VOC2012"
    (source / "ImageSets" / "Segmentation").mkdir(parents=True)
    (source / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n")
    image(source / "JPEGImages" / "2007_000033.jpg")
    palette = Image.fromarray(columns(0, 1, 20, 255))
    palette.putpalette([value % 256 for value in range(768)])
    assert palette.mode == "P"
    (source / "SegmentationClass").mkdir()
    palette.save(source / "SegmentationClass" / "2007_000033.png")
    return source


def test_voc_without_background(voc: Path, tmp_path: Path, monkeypatch) -> None:
    assert prepare("pascal_voc_20", tmp_path).counts == {"val label maps": 1}
    dataset = read_as_target("ovseg", "pascal_voc_20", tmp_path, monkeypatch)
    assert dataset.label_map(0)[0].tolist() == [-1, 0, 19, -1, -1, -1, -1, -1]


def test_voc_with_background_as_its_first_class(voc: Path, tmp_path: Path) -> None:
    prepare("pascal_voc_21", tmp_path)
    words = builtin_vocabulary("pascal_context_59")  # any list of 21 classes or more
    folder = tmp_path / "pascal_voc_d2"
    maps = "annotations_pascal21/val"
    dataset = SemanticMaps(folder, "val", words, images="images/val", maps=maps)
    assert dataset.label_map(0)[0].tolist() == [0, 1, 20, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("folder", [".", "pascal_voc_d2"])
def test_its_archive_may_lie_beside_the_folder_or_in_it(
    voc: Path, tmp_path: Path, folder: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    with tarfile.open(tmp_path / folder / "VOCtrainval_11-May-2012.tar", "w") as packed:
        packed.add(tmp_path / "VOCdevkit", "VOCdevkit")
    shutil.rmtree(tmp_path / "VOCdevkit")
    assert prepare("pascal_voc_20", tmp_path).counts == {"val label maps": 1}


def test_an_image_that_is_a_link_is_followed(context: Path, tmp_path: Path) -> None:
    path = context / "JPEGImages" / "2008_000002.jpg"
    path.rename(context / "store.jpg")
    path.symlink_to("../store.jpg")
    prepare("pascal_context_59", tmp_path)
    made = tmp_path / "pascal_context_full" / "images" / path.name
    assert made.read_bytes() == (context / "store.jpg").read_bytes()


def test_an_image_that_is_read_only_is_linked(context: Path, tmp_path: Path) -> None:
    for path in (context / "JPEGImages").iterdir():
        path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("who is root may write everything")
    assert prepare("pascal_context_59", tmp_path).counts == {"val label maps": 2}


def test_several_processes_make_the_same_files(voc: Path, tmp_path: Path) -> None:
    names = ["2007_000033", "2007_000042", "2007_000061"]
    for name in names[1:]:
        for file in ("JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png"):
            copy = voc / file.replace(names[0], name)
            copy.write_bytes((voc / file).read_bytes())
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    prepare("pascal_voc_21", tmp_path, workers=2)
    made = snapshot(tmp_path / "pascal_voc_d2")
    shutil.rmtree(tmp_path / "pascal_voc_d2")
    prepare("pascal_voc_21", tmp_path)
    assert snapshot(tmp_path / "pascal_voc_d2") == made
    assert len(made) == 6


def test_the_first_bad_file_is_named_by_other_processes_too(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n2007_x\n2007_y\n")
    with pytest.raises(InputError, match=r"2007_x.png: no such file"):
        prepare("pascal_voc_20", tmp_path, workers=2)
    assert (tmp_path / "pascal_voc_d2/annotations_pascal20/val/2007_000033.png").is_file()


def test_all_that_was_made_passes_the_check(context: Path, voc: Path, tmp_path: Path) -> None:
    for name, images in (
        ("pascal_context_59", 2),
        ("pascal_context_459", 2),
        ("pascal_voc_20", 1),
        ("pascal_voc_21", 1),
    ):
        assert known_dataset(name).state(tmp_path) == "not prepared"
        prepare(name, tmp_path)
        assert known_dataset(name).state(tmp_path) == "here"
        ((_, found, _),) = checked(name, tmp_path)
        assert found == images
