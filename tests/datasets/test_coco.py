"""The reader of COCO's layout, on a hand-made set and on real COCO images."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"no folder {SAMPLES}; set OVSEG_SAMPLES"
)
CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 90, "name": "cat", "isthing": 1},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 4 x 6: the first has three segments and void, the second no annotation."""
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations" / "panoptic_val").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "val" / name)
    ids = np.zeros((4, 6), dtype=np.int64)
    ids[0], ids[1, :3], ids[2:, 3:] = 5, 70_000, 300
    png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(png).save(tmp_path / "annotations" / "panoptic_val" / "a.png")
    segments = [
        {"id": 300, "category_id": 2, "iscrowd": 1},
        {"id": 5, "category_id": 7},
        {"id": 70_000, "category_id": 90, "iscrowd": 0},
    ]
    write(
        tmp_path,
        "panoptic_val",
        {
            "images": [
                {"id": 1, "file_name": "a.png", "height": 4, "width": 6},
                {"id": 2, "file_name": "b.png", "height": 4, "width": 6},
            ],
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
            "categories": CATEGORIES,
        },
    )
    return tmp_path


def write(root: Path, name: str, content: object) -> None:
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def change(root: Path, name: str, edit: str, value: object) -> None:
    path = root / "annotations" / f"{name}.json"
    content = json.loads(path.read_text())
    target = content
    *keys, last = [int(key) if key.isdigit() else key for key in edit.split(".")]
    for key in keys:
        target = target[key]
    target[last] = value
    path.write_text(json.dumps(content))


def test_masks_labels_and_crowd_are_read(root: Path) -> None:
    sample = CocoDataset(root, "val")[0]
    assert sample.image.shape == (3, 4, 6)
    assert sample.image[:, 0, 0].tolist() == [10, 20, 30]
    assert sample.labels.tolist() == [0, 1, 2]  # the categories by ascending id
    assert sample.is_crowd.tolist() == [True, False, False]
    assert sample.masks.sum((1, 2)).tolist() == [6, 6, 3]
    assert sample.masks[2, 1, :3].all()
    assert sample.file_name == "a.png"


def test_categories_are_ordered_by_id_and_things_known(root: Path) -> None:
    vocabulary = CocoDataset(root, "val").vocabulary
    assert vocabulary.names == ("dog", "sky", "cat")
    assert vocabulary.is_thing == (True, False, True)
    assert vocabulary.seen == ()


def test_an_image_without_annotations_has_no_masks(root: Path) -> None:
    sample = CocoDataset(root, "val")[1]
    assert sample.masks.shape == (0, 4, 6)
    assert sample.labels.shape == (0,)


def test_seen_classes_come_from_the_vocabulary_file(root: Path) -> None:
    write(root, "vocabulary", {"names": ["cat", "sky", "dog"], "seen": [False, True, True]})
    assert CocoDataset(root, "val").vocabulary.seen == (True, True, False)


def test_a_vocabulary_file_that_lacks_a_category_is_refused(root: Path) -> None:
    write(root, "vocabulary", {"names": ["cat"], "seen": [False]})
    with pytest.raises(InputError, match=r"vocabulary\.json: 'names' lacks the category 'dog'"):
        CocoDataset(root, "val")


def test_a_vocabulary_file_of_lists_is_refused(root: Path) -> None:
    write(root, "vocabulary", {"names": [["cat"]], "seen": [False]})
    with pytest.raises(InputError, match=r"vocabulary\.json: 'names' has an entry that is no text"):
        CocoDataset(root, "val")


def test_captions_are_joined_by_image(root: Path) -> None:
    captions = [{"image_id": 2, "caption": "one"}, {"image_id": 2, "caption": "two"}]
    write(root, "captions_val", {"annotations": captions})
    dataset = CocoDataset(root, "val")
    assert dataset.captions(0) == ()
    assert dataset[1].captions == ("one", "two")


def test_panoptic_pngs_may_lie_beside_the_images(root: Path) -> None:
    shutil.move(root / "annotations" / "panoptic_val", root / "panoptic_val")
    assert CocoDataset(root, "val")[0].masks.shape == (3, 4, 6)


def test_panoptic_pngs_may_lie_in_a_folder_of_another_name(root: Path) -> None:
    shutil.move(root / "annotations" / "panoptic_val", root / "segments")
    assert CocoDataset(root, "val", maps="segments")[0].masks.shape == (3, 4, 6)
    with pytest.raises(InputError, match=r"panoptic: no such folder; .*panoptic PNGs"):
        CocoDataset(root, "val", maps="panoptic")


def test_texts_as_image_ids_are_numbered_in_the_files_order(root: Path) -> None:
    """Mapillary Vistas has such."""
    for edit, name in (
        ("images.0.id", "_a"),
        ("images.1.id", "7"),
        ("annotations.0.image_id", "_a"),
    ):
        change(root, "panoptic_val", edit, name)
    dataset = CocoDataset(root, "val")
    assert [dataset[i].image_id for i in range(2)] == [1, 2]
    assert dataset[0].masks.shape == (3, 4, 6)
    assert len(dataset[1].labels) == 0
    change(root, "panoptic_val", "images.1.id", "_a")
    with pytest.raises(InputError, match=r"images\[1\]: id _a is there twice"):
        CocoDataset(root, "val")


def lvis(root: Path, **image: object) -> None:
    """LVIS's annotations of the first image."""
    address = "http://images.cocodataset.org/val/a.png"
    found = {"id": 9, "coco_url": address, "height": 4, "width": 6, "neg_category_ids": [2]}
    write(
        root,
        "lvis_v1_val",
        {
            "images": [{**found, "not_exhaustive_category_ids": [7], **image}],
            "annotations": [
                {"id": 1, "image_id": 9, "category_id": 7, "segmentation": [[0, 0, 3, 0, 3, 3]]}
            ],
            "categories": [{"id": i, "name": f"class_{i}", "frequency": "r"} for i in (2, 7)],
        },
    )


def test_lviss_images_are_named_by_their_addresses(root: Path) -> None:
    lvis(root, file_name="COCO_val2014_000000000001.jpg")
    places = {"annotations": "instances", "images": ".", "file": "annotations/lvis_v1_val.json"}
    dataset = CocoDataset(root, "val", **places)
    assert dataset[0].file_name == "val/a.png"
    assert dataset[0].masks.shape == (1, 4, 6)
    assert (dataset[0].absent, dataset[0].incomplete) == ((0,), (1,))
    lvis(root, neg_category_ids=["2"])
    with pytest.raises(InputError, match=r"images\[0\]: '2' is no category id"):
        CocoDataset(root, "val", **places)
    lvis(root, coco_url="http://x/../secret")
    with pytest.raises(InputError, match=r"file_name '../secret' leaves the data folder"):
        CocoDataset(root, "val", **places)


def test_a_missing_split_names_those_that_are_there(root: Path) -> None:
    with pytest.raises(InputError, match=r"panoptic_test\.json: no such file; .*for: val"):
        CocoDataset(root, "test")


@pytest.mark.parametrize(
    ("edit", "value", "message"),
    [
        ("categories.1.id", 7, r"categories\[1\]: id 7 or name 'dog' is there twice"),
        ("categories.0", {"id": 1}, r"categories\[0\] has no 'name'"),
        ("images.0.id", 1.5, r"images\[0\]: 'id' is no int"),
        ("images.1.id", 1, r"images\[1\]: id 1 is there twice"),
        ("images.0.height", 0, r"images\[0\]: size 0 x 6"),
        ("images.0.file_name", "../../etc/passwd", r"images\[0\]: file_name .* leaves the data"),
        ("images.0.file_name", "/etc/passwd", r"images\[0\]: file_name .* leaves the data"),
        ("annotations.0.file_name", "..\\a.png", r"annotations\[0\]: file_name .* leaves"),
        ("annotations.0.image_id", 9, r"annotations\[0\]: image_id 9 is not among 'images'"),
        ("annotations.0.segments_info.1.category_id", 3, r"segments_info\[1\]: category_id 3"),
        ("annotations.0.segments_info.1.id", 300, r"annotations\[0\]: a segment id is there twice"),
        ("annotations.0.segments_info.1.id", 0, r"segments_info\[1\]: id is not in 1 to"),
        ("annotations", {}, r"no list 'annotations'"),
    ],
)
def test_the_first_bad_entry_is_named(root: Path, edit: str, value: object, message: str) -> None:
    change(root, "panoptic_val", edit, value)
    with pytest.raises(InputError, match=message):
        CocoDataset(root, "val")


def test_json_that_windows_tools_wrote_is_read(root: Path) -> None:
    path = root / "annotations" / "panoptic_val.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert len(CocoDataset(root, "val")) == 2


def test_broken_json_names_line_and_column(root: Path) -> None:
    (root / "annotations" / "panoptic_val.json").write_text('{"images": [\n1,, 2]}')
    with pytest.raises(InputError, match="not valid JSON at line 2, column 3"):
        CocoDataset(root, "val")


def test_a_segment_without_pixels_is_refused(root: Path) -> None:
    change(root, "panoptic_val", "annotations.0.segments_info.1.id", 6)
    with pytest.raises(InputError, match="segment 6 has no pixel in the PNG"):
        CocoDataset(root, "val")[0]


def test_a_segment_that_is_not_listed_is_refused(root: Path) -> None:
    path = root / "annotations" / "panoptic_val.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="segment 5 of the PNG is not in 'segments_info'"):
        CocoDataset(root, "val")[0]


def test_an_image_of_another_size_is_refused(root: Path) -> None:
    Image.new("RGB", (5, 4)).save(root / "val" / "a.png")
    with pytest.raises(InputError, match="the image is 4 x 5, its annotations say 4 x 6"):
        CocoDataset(root, "val")[0]


def test_an_image_that_is_turned_by_exif_is_read_as_annotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(root / "val" / "a.png", exif=exif)
    assert CocoDataset(root, "val")[0].image.shape == (3, 4, 6)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_damaged_image_is_one_clear_error(root: Path, content: bytes) -> None:
    (root / "val" / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an image"):
        CocoDataset(root, "val")[0]


def test_instances_are_read_from_polygons_and_run_lengths(root: Path) -> None:
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 90,
            "iscrowd": 1,
            "segmentation": {"size": [4, 6], "counts": [4, 4, 16]},
        },
    ]
    content = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    things = [c for c in CATEGORIES if c["isthing"]]
    write(root, "instances_val", {**content, "annotations": annotations, "categories": things})
    dataset = CocoDataset(root, "val", annotations="instances")
    sample = dataset[0]
    assert dataset.vocabulary.names == ("dog", "cat")
    assert sample.masks.sum((1, 2)).tolist() == [6, 4]
    assert sample.masks[1, :, 1].all()
    assert sample.is_crowd.tolist() == [False, True]
    change(root, "instances_val", "annotations.1.segmentation.counts", [4, 4, 17])
    with pytest.raises(InputError, match="annotation 2: run lengths sum to 25, the image has 24"):
        CocoDataset(root, "val", annotations="instances")[0]


@needs_samples
def test_real_coco_instances_equal_pycocotools_masks() -> None:
    root = SAMPLES / "coco128_instances"
    dataset = CocoDataset(root, "train2017", annotations="instances")
    theirs = COCO(root / "annotations" / "instances_train2017.json")
    assert len(dataset) == 128
    for index in range(0, 128, 8):
        sample = dataset[index]
        expected = theirs.loadAnns(theirs.getAnnIds(sample.image_id))
        for mask, annotation in zip(sample.masks, expected, strict=True):
            assert np.array_equal(mask.numpy(), theirs.annToMask(annotation).astype(bool))


@needs_samples
def test_real_coco_panoptic_areas_equal_the_annotations(tmp_path: Path) -> None:
    source = SAMPLES / "coco_panoptic_samples" / "sample_data"
    (tmp_path / "annotations").mkdir()
    shutil.copy(
        source / "panoptic_examples.json", tmp_path / "annotations" / "panoptic_val2017.json"
    )
    (tmp_path / "val2017").symlink_to(source / "input_images")
    (tmp_path / "panoptic_val2017").symlink_to(source / "panoptic_examples")
    dataset = CocoDataset(tmp_path, "val2017")
    assert len(dataset.vocabulary) == 133
    assert sum(dataset.vocabulary.is_thing) == 80
    assert tuple(dataset.class_of) == builtin_ids("coco_panoptic_133")
    assert dataset.vocabulary.is_thing == builtin_vocabulary("coco_panoptic_133").is_thing
    for record, sample in zip(dataset.records, dataset, strict=True):
        areas = [segment["area"] for segment in record.segments]
        assert sample.masks.sum((1, 2)).tolist() == areas
        assert int(sample.masks.sum(0).max()) == 1
        assert sample.masks.dtype == torch.bool
