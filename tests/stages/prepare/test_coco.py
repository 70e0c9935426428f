"""COCO, COCO-Stuff and LVIS, from their archives to what is read."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from official import SIZE, columns, image, png

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError, UsageError
from ovseg_cli.stages.convert_maps import LabelMaps, convert_maps
from ovseg_cli.stages.prepare.preparations import prepare

ID = 397133
NAME = f"{ID:012}"


def archive(path: Path, members: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path.read_bytes()


def jpg(tmp_path: Path) -> bytes:
    return image(tmp_path / "scratch" / "a.jpg").read_bytes()


def panoptic(tmp_path: Path) -> tuple[bytes, bytes]:
    """JSON and PNG of an image that is a person (1) all over."""
    segment = {"id": 5, "category_id": 1, "iscrowd": 0, "area": 48, "bbox": [0, 0, 8, 6]}
    content = {
        "images": [{"id": ID, "file_name": f"{NAME}.jpg", "height": 6, "width": 8}],
        "annotations": [{"image_id": ID, "file_name": f"{NAME}.png", "segments_info": [segment]}],
        "categories": [{"id": 1, "name": "person", "isthing": 1}],
    }
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[..., 0] = 5
    return json.dumps(content).encode(), png(tmp_path / "scratch" / "a.png", pixels).read_bytes()


def test_panoptic_out_of_archives_in_archives(tmp_path: Path) -> None:
    data = tmp_path / "data"
    records, pixels = panoptic(tmp_path)
    inner = archive(tmp_path / "scratch" / "i.zip", {f"panoptic_val2017/{NAME}.png": pixels})
    annotations = {
        "annotations/panoptic_val2017.json": records,
        "annotations/panoptic_val2017.zip": inner,
    }
    archive(data / "panoptic_annotations_trainval2017.zip", annotations)
    archive(data / "coco" / "val2017.zip", {f"val2017/{NAME}.jpg": jpg(tmp_path)})
    prepared = prepare("coco_panoptic", data, splits=["val2017"])
    assert prepared.counts == {"val2017 images": 1, "val2017 panoptic": 1}
    dataset = CocoDataset(data / "coco", "val2017")
    assert dataset[0].masks.all()
    assert dataset.records[0].image_id == ID


def test_pngs_beside_the_images_will_do(tmp_path: Path) -> None:
    records, pixels = panoptic(tmp_path)
    folder = tmp_path / "coco"
    image(folder / "val2017" / f"{NAME}.jpg")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "panoptic_val2017.json").write_bytes(records)
    (folder / "panoptic_val2017").mkdir()
    (folder / "panoptic_val2017" / f"{NAME}.png").write_bytes(pixels)
    prepare("coco_panoptic", tmp_path, splits=["val2017"])
    assert len(CocoDataset(folder, "val2017")) == 1


def test_what_is_missing_of_coco_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare("coco_captions", tmp_path, splits=["val2017"])
    for part in (
        str(tmp_path / "coco" / "annotations" / "captions_val2017.json"),
        "https://cocodataset.org/#download",
        "annotations_trainval2017.zip",
        "--split",
    ):
        assert part in str(caught.value)


@pytest.fixture
def stuff(tmp_path: Path) -> Path:
    """COCO-Stuff's maps in their archive, and the images in coco/ alone."""
    maps = {
        NAME: columns(0, 0, 181, 255),  # person, wood
        "000000000009": columns(255),
    }
    members = {}
    for name, labels in maps.items():
        image(tmp_path / "coco" / "val2017" / f"{name}.jpg")
        path = png(tmp_path / "scratch" / f"{name}.png", labels)
        members[f"val2017/{name}.png"] = path.read_bytes()
    archive(tmp_path / "coco_stuff" / "stuffthingmaps_trainval2017.zip", members)
    return tmp_path / "coco_stuff"


def test_label_maps_of_stuff_become_panoptic(stuff: Path) -> None:
    prepared = prepare("coco_stuff", stuff.parent, splits=["val2017"])
    assert prepared.counts == {"val2017 panoptic": 2}
    (record,) = CocoDataset(stuff, "val2017").records
    assert (record.image_id, record.file_name) == (ID, f"{NAME}.jpg")
    assert [(s["category_id"], s["area"]) for s in record.segments] == [(1, 12), (182, 6)]


def test_the_folder_of_stuff_may_be_a_link(stuff: Path, tmp_path: Path) -> None:
    stuff.rename(tmp_path / "scratch" / "stuff")
    stuff.symlink_to(tmp_path / "scratch" / "stuff", target_is_directory=True)
    hidden = stuff / "stuffthingmaps" / "val2017" / f"._{NAME}.png"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"of the Finder")
    assert prepare("coco_stuff", tmp_path, splits=["val2017"]).counts == {"val2017 panoptic": 2}
    assert (stuff / "val2017" / f"{NAME}.jpg").is_file()


def test_stuff_is_as_from_maps_makes_it(stuff: Path) -> None:
    prepare("coco_stuff", stuff.parent, splits=["val2017"])
    made = CocoDataset(stuff, "val2017")
    sample = made[0]
    options = LabelMaps(
        classes="coco_stuff_171", maps="stuffthingmaps/val2017", values="id_from_zero"
    )
    (stuff / "annotations" / "panoptic_val2017.json").unlink()
    convert_maps(stuff, "val2017", options)
    other = CocoDataset(stuff, "val2017")
    assert other.class_of == made.class_of
    assert other[0].labels.tolist() == sample.labels.tolist()
    assert (other[0].masks == sample.masks).all()
    assert other.records[0].image_id == made.records[0].image_id


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    """LVIS's val file, packed, with an image of COCO's train part."""
    content = {
        "images": [
            {
                "id": ID,
                "coco_url": f"http://images.cocodataset.org/train2017/{NAME}.jpg",
                "height": 6,
                "width": 8,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "aerosol_can"}],
    }
    stream = io.StringIO()
    json.dump(content, stream)
    members = {"lvis_v1_val.json": stream.getvalue().encode()}
    archive(tmp_path / "coco" / "lvis_v1_val.json.zip", members)
    for split in ("train2017", "val2017"):
        image(tmp_path / "coco" / split / f"{NAME}.jpg")
    return tmp_path / "coco"


def test_lvis_lies_across_both_parts_of_coco(lvis: Path) -> None:
    assert prepare("lvis", lvis.parent).counts == {"val images": 1}
    assert (lvis / "annotations" / "lvis_v1_val.json").is_file()


def test_an_image_of_lvis_that_is_missing_is_named(lvis: Path) -> None:
    (lvis / "train2017" / f"{NAME}.jpg").unlink()
    with pytest.raises(InputError, match=rf"train2017/{NAME}.jpg: no such image"):
        prepare("lvis", lvis.parent)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("cocoa", {}, "no dataset 'cocoa'; there are coco_panoptic, "),
        ("lvis", {"splits": ["test"]}, "--split test: lvis has val, train"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, name, options, sentence) -> None:
    with pytest.raises(UsageError, match=sentence):
        prepare(name, tmp_path, **options)
