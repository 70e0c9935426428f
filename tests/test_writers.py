import errno
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_cli.errors import StorageError
from ovseg_cli.structures import VOID, Instances, Segment
from ovseg_cli.vocabulary import parse_labels
from ovseg_cli.writers import (
    OutputNames,
    categories,
    json_lines,
    panoptic_annotation,
    panoptic_image,
    panoptic_json,
    rle_records,
    semantic_image,
    write_png,
)

IDS = torch.tensor([[0, 1, 1], [2, 1, 1]], dtype=torch.int32)
SEGMENTS = (Segment(1, 1, True, 0.91, 4), Segment(2, 0, False, 0.5, 1))


def test_equal_stems_get_different_names() -> None:
    names = OutputNames()
    stems = ("x", "x", "X", "x-2", "y", "x-2", "x")
    found = [names.name_for(stem) for stem in stems]
    assert found == ["x", "x-2", "X-3", "x-2-2", "y", "x-2-3", "x-4"]


def test_the_names_taken_are_not_in_memory() -> None:
    names = OutputNames()
    for number in range(100):
        names.name_for(f"warm-{number}")
    tracemalloc.start()
    for number in range(2000):
        names.name_for(f"an_image_of_some_name_{number}")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000  # a set of them has 250 kB


@pytest.mark.parametrize("stem", ["語" * 83, "x" * 250, "\udce9", "caf\udce9"])
def test_names_that_are_long_or_no_text_can_be_written(tmp_path, stem) -> None:
    name = OutputNames().name_for(stem)
    write_png(tmp_path / f"{name}.png", Image.new("L", (1, 1)))
    with json_lines(tmp_path / "a.jsonl") as lines:
        lines.add({"file_name": f"{stem}.jpg", "category": "Straße"})
    assert json.loads((tmp_path / "a.jsonl").read_text("utf-8"))["file_name"] == f"{stem}.jpg"
    assert sorted(os.listdir(tmp_path)) == sorted(["a.jsonl", f"{name}.png"])


def test_panoptic_ids_survive_the_png(tmp_path) -> None:
    ids = torch.tensor([[0, 1, 255], [256, 65536, 2**24 - 1]], dtype=torch.int32)
    write_png(tmp_path / "a.png", panoptic_image(ids))
    rgb = np.asarray(Image.open(tmp_path / "a.png")).astype(np.int64)
    assert (rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]).tolist() == ids.tolist()


@pytest.mark.parametrize(("classes", "mode"), [(255, "L"), (256, "I;16")])
def test_semantic_maps_take_two_bytes_only_where_needed(tmp_path, classes, mode) -> None:
    semantic = torch.tensor([[0, classes - 1, VOID]])
    write_png(tmp_path / "a.png", semantic_image(semantic, classes))
    image = Image.open(tmp_path / "a.png")
    assert image.mode == mode
    void = 255 if mode == "L" else 65535
    assert np.asarray(image).tolist() == [[0, classes - 1, void]]


def test_too_many_classes_for_a_png_are_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        semantic_image(torch.zeros(1, 1, dtype=torch.int64), 65536)


def test_a_panoptic_annotation_is_cocos() -> None:
    annotation = panoptic_annotation(
        IDS, SEGMENTS, image_id=7, file_name="a.png", category_ids=(10, 20)
    )
    assert annotation["image_id"] == 7
    assert annotation["file_name"] == "a.png"
    assert annotation["segments_info"] == [
        {"id": 1, "category_id": 20, "iscrowd": 0, "area": 4, "bbox": [1, 0, 2, 2], "score": 0.91},
        {"id": 2, "category_id": 10, "iscrowd": 0, "area": 1, "bbox": [0, 1, 1, 1], "score": 0.5},
    ]


def test_panoptic_json_is_whole_after_any_number_of_images(tmp_path) -> None:
    classes = categories(parse_labels("couch/sofa,sky"), (5, 9))
    for count in (0, 1, 3):
        with panoptic_json(tmp_path / "panoptic.json", classes) as file:
            for number in range(count):
                file.add({"id": number, "file_name": "ü.png"}, {"image_id": number})
        content = json.loads((tmp_path / "panoptic.json").read_text())
        assert [image["id"] for image in content["images"]] == list(range(count))
        assert [entry["image_id"] for entry in content["annotations"]] == list(range(count))
        assert content["categories"] == [
            {"id": 5, "name": "couch", "isthing": 1, "synonyms": ["couch", "sofa"]},
            {"id": 9, "name": "sky", "isthing": 0, "synonyms": ["sky"]},
        ]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_rle_gives_the_masks_back(height, width, count, seed) -> None:
    masks = torch.from_numpy(np.random.default_rng(seed).random((count, height, width)) < 0.5)
    found = Instances(masks, torch.zeros(count, dtype=torch.int64), torch.linspace(1, 0, count))
    records = rle_records(found, image_id=1, file_name="a.png", category_ids=(3,), names=("dog",))
    assert len(records) == count
    for record, mask in zip(records, masks, strict=True):
        record = json.loads(json.dumps(record))
        assert record["segmentation"]["size"] == [height, width]
        assert (coco_mask.decode(record["segmentation"]) == mask.numpy()).all()
        assert record["area"] == mask.sum()
        assert record["category_id"] == 3
        assert record["category"] == "dog"


@pytest.mark.parametrize("opened", [json_lines, lambda path: panoptic_json(path, [])])
def test_a_block_that_fails_leaves_the_earlier_file_and_no_rubbish(tmp_path, opened) -> None:
    path = tmp_path / "a.json"
    path.write_text("earlier")

    def fail() -> None:
        with opened(path):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == "earlier"


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch) -> None:
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match=r"a.png: no space left on the disk; free some"):
        write_png(tmp_path / "a.png", Image.new("L", (1, 1)))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_between_images_leaves_nothing(tmp_path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")

    def fill() -> None:
        with json_lines(tmp_path / "a.jsonl") as lines:
            lines._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
            lines.add({"key": "value"})

    with pytest.raises(StorageError, match=r"a.jsonl: no space left"):
        fill()
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another folder"):
        write_png(tmp_path / "file" / "a.png", Image.new("L", (1, 1)))
