"""Cityscapes and Mapillary Vistas as they are published."""

import json
from pathlib import Path

import numpy as np
import pytest
from official import checked, columns, image, png, read_as_target, snapshot

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.preparations import prepare
from ovseg_cli.stages.scores import class_map
from ovseg_cli.vocabulary import builtin_vocabulary

ROAD, CAR, RIDER = 0, 13, 12  # indices of the 19


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """An image of each of two cities, with a group of cars, two cars, road, and the own car."""
    folder = tmp_path / "cityscapes"
    maps = {
        "frankfurt/frankfurt_000000_000294": columns16(1, 7, 26, 26000, 26001, 25003, 5, 0),
        "ulm/ulm_000001_000019": columns16(7),
    }
    for name, values in maps.items():
        image(folder / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png")
        png(folder / "gtFine" / "val" / f"{name}_gtFine_instanceIds.png", values)
    return folder


def columns16(*values: int) -> np.ndarray:
    return columns(*values, kind="uint16")


def test_instances_groups_and_void_of_cityscapes(cityscapes: Path, monkeypatch) -> None:
    before = snapshot(cityscapes)
    assert prepare("cityscapes", cityscapes.parent).counts == {"val panoptic": 2}
    assert snapshot(cityscapes).items() >= before.items()
    dataset = read_as_target("fcclip", "cityscapes", cityscapes.parent, monkeypatch)
    assert dataset.vocabulary == builtin_vocabulary("cityscapes_19")
    sample = dataset[0]
    assert sample.labels.tolist() == [ROAD, CAR, RIDER, CAR, CAR]
    assert sample.is_crowd.tolist() == [False, True, False, False, False]
    expected = [-1, ROAD, CAR, CAR, CAR, RIDER, -1, -1]
    assert class_map(sample)[0].tolist() == expected
    assert dataset[1].labels.tolist() == [ROAD]


@pytest.mark.parametrize("values", [columns16(34), columns16(34000), columns(7)[..., None][:, :0]])
def test_a_bad_map_of_cityscapes_is_named(cityscapes: Path, values: np.ndarray) -> None:
    path = cityscapes / "gtFine" / "val" / "ulm" / "ulm_000001_000019_gtFine_instanceIds.png"
    path.write_bytes(b"") if not values.size else png(path, values)
    with pytest.raises(InputError, match=r"ulm_000001_000019_gtFine_instanceIds.png: "):
        prepare("cityscapes", cityscapes.parent)
    assert not (cityscapes / "annotations" / "panoptic_val.json").exists()


def test_a_missing_image_of_cityscapes_is_named(cityscapes: Path) -> None:
    path = cityscapes / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"
    path.unlink()
    with pytest.raises(InputError, match=r"ulm_000001_000019_leftImg8bit.png: no such file"):
        prepare("cityscapes", cityscapes.parent)


@pytest.fixture
def mapillary(tmp_path: Path) -> Path:
    """An image of Mapillary Vistas, whose ids are texts: a bird on a road."""
    words = builtin_vocabulary("mapillary_65")
    folder = tmp_path / "mapillary_vistas" / "validation"
    image(folder / "images" / "aB-1_x.jpg")
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:, 1] = 1, 1
    png(folder / "panoptic" / "aB-1_x.png", pixels)
    segments = [{"id": 1, "category_id": 1}, {"id": 256, "category_id": 14}]
    content = {
        "images": [{"id": "aB-1_x", "file_name": "aB-1_x.jpg", "height": 6, "width": 8}],
        "annotations": [
            {"image_id": "aB-1_x", "file_name": "aB-1_x.png", "segments_info": segments}
        ],
        "categories": [
            {"id": number, "name": name, "isthing": int(thing)}
            for number, (name, thing) in enumerate(
                zip(words.names, words.is_thing, strict=True), start=1
            )
        ],
    }
    (folder / "panoptic" / "panoptic_2018.json").write_text(json.dumps(content))
    return tmp_path / "mapillary_vistas"


def test_mapillary_is_read_as_it_is(mapillary: Path, monkeypatch) -> None:
    before = snapshot(mapillary)
    assert prepare("mapillary", mapillary.parent).counts == {"validation panoptic": 1}
    assert snapshot(mapillary) == before
    dataset = read_as_target("fcclip", "mapillary", mapillary.parent, monkeypatch)
    names = [dataset.vocabulary.names[label] for label in dataset[0].labels]
    assert names == [builtin_vocabulary("mapillary_65").names[i] for i in (0, 13)]


def test_another_version_of_mapillary_is_refused(mapillary: Path) -> None:
    path = mapillary / "validation" / "panoptic" / "panoptic_2018.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 66, "name": "Something New", "isthing": 1})
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"panoptic_2018.json: not the 65 classes"):
        prepare("mapillary", mapillary.parent)


def test_a_missing_png_of_mapillary_is_named(mapillary: Path) -> None:
    (mapillary / "validation" / "panoptic" / "aB-1_x.png").unlink()
    with pytest.raises(InputError, match=r"aB-1_x.png: no such file"):
        prepare("mapillary", mapillary.parent)


def test_all_that_was_made_passes_the_check(cityscapes: Path, mapillary: Path) -> None:
    prepare("cityscapes", cityscapes.parent)
    ((_, images, segments),) = checked("cityscapes", cityscapes.parent)
    assert (images, segments) == (2, 6)
    ((_, images, segments),) = checked("mapillary", mapillary.parent)
    assert (images, segments) == (1, 2)
