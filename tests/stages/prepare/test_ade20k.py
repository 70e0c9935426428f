"""ADE20K's two releases: 150 classes with instances, and all its names."""

import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from official import SIZE, checked, columns, image, png, read_as_target, rgb, snapshot
from PIL import Image

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.ade20k_full import class_table
from ovseg_cli.stages.prepare.preparations import prepare
from ovseg_cli.stages.scores import class_map
from ovseg_cli.vocabulary import builtin_vocabulary

SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[3] / ".." / "shared" / "data")
).resolve()
FULL = SAMPLES / "ade20k_samples" / "dataset" / "ADE20K_2021_17_01"
SCENES = SAMPLES / "ade20k_samples" / "sampleData"
WALL, BED, WINDOW, SKY = 1, 8, 9, 3  # of the 150, from 1
THING_BED, THING_WINDOW = 1, 2  # of the 100 things, from 1


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """ADEChallengeData2016 with two validation images: two beds, and no thing at all."""
    folder = tmp_path / "ADEChallengeData2016"
    maps = {
        "ADE_val_00000001": columns(0, WALL, BED, BED, BED, BED, SKY, SKY),
        "ADE_val_00000002": columns(SKY, WALL),
    }
    beds = columns(0, 0, 1, 1, 1, 0, 1, 0)  # one column of bed without instance, one over the sky
    objects = {
        "ADE_val_00000001": rgb(beds * THING_BED, columns(0, 0, 7, 7, 9, 0, 9, 0)),
        "ADE_val_00000002": rgb(columns(0), columns(0)),
    }
    for name in maps:
        image(folder / "images" / "validation" / f"{name}.jpg")
        png(folder / "annotations" / "validation" / f"{name}.png", maps[name])
        png(folder / "annotations_instance" / "validation" / f"{name}.png", objects[name])
    return folder


def test_label_maps_count_from_zero_and_other_is_void(scenes: Path, monkeypatch) -> None:
    before = snapshot(scenes)
    prepared = prepare("ade20k_150", scenes.parent, splits=["validation"])
    kinds = ("label maps", "panoptic", "instances")
    assert prepared.counts == {f"validation {kind}": 2 for kind in kinds}
    assert snapshot(scenes).items() >= before.items()
    dataset = read_as_target("maft", "ade20k_150", scenes.parent, monkeypatch)
    assert dataset.label_map(0)[0].tolist() == [-1, 0, 7, 7, 7, 7, 2, 2]
    assert len(dataset) == 2


def test_panoptic_is_stuff_of_the_maps_and_instances_over_it(scenes: Path, monkeypatch) -> None:
    prepare("ade20k-150", scenes.parent, splits=["validation"])
    dataset = read_as_target("fcclip", "ade20k_150", scenes.parent, monkeypatch)
    assert dataset.vocabulary == builtin_vocabulary("ade20k_150")
    assert class_map(dataset[0])[0].tolist() == [-1, 0, 7, 7, 7, -1, 7, 2]
    assert dataset[0].labels.tolist() == [0, 2, 7, 7]
    assert [s["area"] for s in dataset.records[0].segments] == [6, 6, 12, 12]
    assert [s["bbox"] for s in dataset.records[0].segments][2:] == [[2, 0, 2, 6], [4, 0, 3, 6]]
    assert dataset[1].labels.tolist() == [0, 2]


def test_names_are_whole_and_instances_are_the_panoptic_things(scenes: Path, monkeypatch) -> None:
    prepare("ade20k_150", scenes.parent, splits=["validation"])
    instances = read_as_target("maskclip", "ade20k_150_instances", scenes.parent, monkeypatch)
    assert len(instances.vocabulary) == 100
    assert "painting, picture" in instances.vocabulary.names
    panoptic = read_as_target("fcclip", "ade20k_150", scenes.parent, monkeypatch)
    assert torch.equal(instances[0].masks, panoptic[0].masks[2:])
    assert [s["category_id"] for s in instances.records[0].segments] == [7, 7]
    assert instances.records[1].segments == ()


def test_without_instances_the_maps_are_made_and_it_is_said(scenes: Path) -> None:
    (scenes / "annotations_instance" / "validation").rename(scenes / "elsewhere")
    prepared = prepare("ade20k_150", scenes.parent, splits=["validation"])
    assert prepared.counts == {"validation label maps": 2}
    (sentence,) = prepared.left_out
    assert str(scenes / "annotations_instance" / "validation") in sentence
    assert "annotations_instance.tar" in sentence


def test_a_missing_download_is_named_with_its_page_and_place(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare("ade20k_150", tmp_path)
    assert str(tmp_path / "ADEChallengeData2016" / "images" / "validation") in str(caught.value)
    assert "http://sceneparsing.csail.mit.edu" in str(caught.value)


@pytest.mark.parametrize("value", [151, 255])
def test_a_value_that_ade20k_does_not_have_names_the_file(scenes: Path, value: int) -> None:
    path = scenes / "annotations" / "validation" / "ADE_val_00000002.png"
    png(path, columns(3, value))
    with pytest.raises(InputError, match=rf"ADE_val_00000002.png: value {value}"):
        prepare("ade20k_150", scenes.parent, splits=["validation"])
    made = scenes / "annotations_detectron2" / "validation"
    assert [file.name for file in made.iterdir()] == ["ADE_val_00000001.png"]


def test_an_instance_of_two_classes_names_the_file(scenes: Path) -> None:
    path = scenes / "annotations_instance" / "validation" / "ADE_val_00000001.png"
    png(path, rgb(columns(THING_BED, THING_WINDOW), columns(4)))
    with pytest.raises(InputError, match=r"annotations_instance.*00000001.png: instance 4"):
        prepare("ade20k_150", scenes.parent, splits=["validation"])
    assert not (scenes / "ade20k_panoptic_val.json").exists()


def test_stopped_work_goes_on_and_gives_the_same_files(scenes: Path, monkeypatch) -> None:
    bad = scenes / "annotations_instance" / "validation" / "ADE_val_00000002.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:20])
    with pytest.raises(InputError, match="00000002"):
        prepare("ade20k_150", scenes.parent, splits=["validation"])
    first = scenes / "ade20k_panoptic_val" / "ADE_val_00000001.png"
    written = first.stat().st_mtime_ns
    left, writing = (first.with_name(f".ADE_val_00000002.{pid}.tmp.png") for pid in (77, 78))
    left.write_bytes(b"cut off")
    os.utime(left, (1e9, 1e9))
    writing.write_bytes(b"of a process that lives")
    with (scenes / ".ade20k_panoptic_val.jsonl").open("a") as journal:
        journal.write('["ADE_val_00000002.png", {"file_na')
    bad.write_bytes(good)
    prepare("ade20k_150", scenes.parent, splits=["validation"])
    assert first.stat().st_mtime_ns == written
    names = sorted(path.name for path in (scenes / "ade20k_panoptic_val").iterdir())
    assert names == [writing.name, "ADE_val_00000001.png", "ADE_val_00000002.png"]
    assert not (scenes / ".ade20k_panoptic_val.jsonl").exists()
    dataset = read_as_target("fcclip", "ade20k_150", scenes.parent, monkeypatch)
    assert [sample.labels.tolist() for sample in dataset] == [[0, 2, 7, 7], [0, 2]]


def test_colours_are_no_label_map(scenes: Path) -> None:
    colours = rgb(columns(WALL), columns(BED))
    png(scenes / "annotations" / "validation" / "ADE_val_00000001.png", colours)
    with pytest.raises(InputError, match=r"00000001.png: a label map has one number a pixel"):
        prepare("ade20k_150", scenes.parent, splits=["validation"])


def test_archives_beside_a_folder_that_is_not_there_yet(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "ADEChallengeData2016.zip", "w") as archive:
        for name in ("images", "annotations"):
            for path in (scenes / name).rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path))
    with tarfile.open(data / "annotations_instance.tar", "w") as tar:
        tar.add(scenes / "annotations_instance", "annotations_instance")
    prepared = prepare("ade20k_150", data, splits=["validation"])
    assert prepared.counts["validation instances"] == 2
    assert not prepared.left_out


def test_files_that_other_tools_made_are_kept(scenes: Path) -> None:
    (scenes / "ade20k_panoptic_val.json").write_text("Mask2Former's")
    maps = scenes / "annotations_detectron2" / "validation"
    png(maps / "ADE_val_00000001.png", columns(9))
    before = snapshot(scenes)
    prepare("ade20k_150", scenes.parent, splits=["validation"])
    assert snapshot(scenes).items() >= before.items()
    assert (scenes / "ade20k_instance_val.json").is_file()
    assert not (scenes / "ade20k_panoptic_val").exists()


def full_release(data: Path, numbers: np.ndarray, size: tuple[int, int]) -> Path:
    """ADE20K_2021_17_01 with a validation image whose pixels have these object numbers."""
    folder = data / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "home" / "attic"
    image(folder / "ADE_val_00000001.jpg", size)
    red, green = numbers // 256 * 10 + 3, numbers % 256  # 3: the red channel's rest is of no use
    png(folder / "ADE_val_00000001_seg.png", rgb(red, green).astype(np.uint8))
    return folder


def test_all_names_of_ade20k_by_number(tmp_path: Path, monkeypatch) -> None:
    wall, adding_machine, rare = 2978, int(np.flatnonzero(class_table() == 846)[0]), 7
    assert class_table()[rare] == 65535
    numbers = columns(0, wall, adding_machine, rare, kind="int32")
    full_release(tmp_path, numbers, SIZE)
    assert prepare("ade20k_847", tmp_path).counts == {"validation label maps": 1}
    dataset = read_as_target("fcclip", "ade20k_847", tmp_path, monkeypatch)
    assert dataset.label_map(0)[2].tolist() == [-1, 0, 846, -1, -1, -1, -1, -1]


def test_all_names_large_images_are_shrunk_and_maps_keep_their_values(
    tmp_path: Path, monkeypatch
) -> None:
    numbers = np.zeros((600, 900), np.int32)
    numbers[:, 450:] = 2420  # sky
    full_release(tmp_path, numbers, (600, 900))
    prepare("ade20k_847", tmp_path)
    dataset = read_as_target("fcclip", "ade20k_847", tmp_path, monkeypatch)
    assert dataset[0].image.shape == (3, 512, 768)
    assert dataset.label_map(0).unique().tolist() == [-1, 2]
    assert (dataset.label_map(0)[:, 384:] == 2).all()


def test_a_segmentation_of_another_size_names_the_image(tmp_path: Path) -> None:
    folder = full_release(tmp_path, np.zeros(SIZE, np.int32), SIZE)
    image(folder / "ADE_val_00000001.jpg", (6, 9))
    with pytest.raises(InputError, match=r"ADE_val_00000001.jpg: the image is 6 x 9"):
        prepare("ade20k_847", tmp_path)


@pytest.mark.skipif(not FULL.is_dir(), reason=f"no folder {FULL}; set OVSEG_SAMPLES")
def test_real_images_with_all_names(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "ADE20K_2021_17_01").mkdir()
    (tmp_path / "ADE20K_2021_17_01" / "images").symlink_to(FULL / "images")
    prepare("ade20k_847", tmp_path, splits=["training"])
    names = builtin_vocabulary("ade20k_847").synonyms
    folder = tmp_path / "ADE20K_2021_17_01"
    for path in sorted((folder / "annotations_detectron2" / "training").iterdir()):
        found = np.unique(np.asarray(Image.open(path)))
        shown = {frozenset(names[value]) for value in found if value != 65535}
        said = next(FULL.rglob(f"{path.stem}.json"))
        objects = json.loads(said.read_text(encoding="utf-8"))["annotation"]["object"]
        whole = [entry for entry in objects if entry["parts"]["part_level"] == 0]
        listed = {frozenset(entry["name"].split(", ")) for entry in whole}
        assert len(shown) > 5
        assert shown <= listed


@pytest.mark.skipif(not SCENES.is_dir(), reason=f"no folder {SCENES}; set OVSEG_SAMPLES")
def test_real_label_maps_of_150_classes(tmp_path: Path) -> None:
    folder = tmp_path / "ADEChallengeData2016"
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
        (folder / name / "validation").symlink_to(SCENES / name)
    assert prepare("ade20k_150", tmp_path, splits=["validation"]).counts == {
        "validation label maps": 3
    }
    for path in (folder / "annotations_detectron2" / "validation").iterdir():
        official = np.asarray(Image.open(SCENES / "annotations" / path.name)).astype(int)
        assert (np.asarray(Image.open(path)) == (official - 1) % 256).all()


def test_the_training_part_of_a_panoptic_recipe_is_made_too(scenes: Path) -> None:
    for name in ("images", "annotations", "annotations_instance"):
        (scenes / name / "training").symlink_to(scenes / name / "validation")
    counts = prepare("ade20k_150", scenes.parent).counts
    assert counts["training panoptic"] == 2
    file = "ade20k_panoptic_train.json"
    dataset = CocoDataset(scenes, "training", images="images/training", file=file)
    assert len(dataset) == 2


def test_all_that_was_made_passes_the_check(scenes: Path) -> None:
    prepare("ade20k_150", scenes.parent, splits=["validation"])
    for name, annotations in (("ade20k_150", 6), ("ade20k_150_instances", 2)):
        assert checked(name, scenes.parent) == [(f"{name}-validation", 2, annotations)]
    full_release(scenes.parent, columns(2978, kind="int32"), SIZE)
    prepare("ade20k_847", scenes.parent)
    assert checked("ade20k_847", scenes.parent) == [("ade20k_847-validation", 1, 1)]
