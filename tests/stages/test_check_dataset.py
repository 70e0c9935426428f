"""`ovseg datasets check` and `list`: hand-made sets in each layout, damaged in every way, and real
samples."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli.cli import app
from ovseg_cli.datasets.known import known_dataset
from ovseg_cli.errors import InputError, OvsegError, UsageError
from ovseg_cli.stages.check_dataset import CheckedPart, check_dataset
from ovseg_cli.stages.dataset_parts import folder_options
from ovseg_cli.stages.list_datasets import list_datasets

SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"no folder {SAMPLES}; set OVSEG_SAMPLES"
)
CATEGORIES = [{"id": 3, "name": "dog", "isthing": 1}, {"id": 5, "name": "sky", "isthing": 0}]
IMAGES = [
    {"id": 1, "file_name": "a.png", "height": 4, "width": 6},
    {"id": 2, "file_name": "b.png", "height": 4, "width": 6},
]


def check(folder: Path, **options: Any) -> list[CheckedPart]:
    return check_dataset(str(folder), data=folder, workers=1, **options)


def image(path: Path, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def labels(path: Path, rows: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)


def write(root: Path, name: str, content: dict[str, Any]) -> Path:
    file = root / "annotations" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Three dogs in two images: a polygon, run lengths of a crowd, a polygon without a pixel."""
    for entry in IMAGES:
        image(tmp_path / "val" / str(entry["file_name"]))
    crowd = {"size": [4, 6], "counts": [4, 8, 12]}
    dogs = [
        {"id": 7, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]},
        {"id": 8, "image_id": 1, "category_id": 3, "segmentation": crowd, "iscrowd": 1},
        {"id": 9, "image_id": 1, "category_id": 3, "segmentation": [[0.1, 0, 0.2, 0, 0.2, 0.1]]},
    ]
    dogs[0]["bbox"] = [0, 0, 3, 3]
    write(
        tmp_path,
        "instances_val",
        {"images": IMAGES, "annotations": dogs, "categories": CATEGORIES},
    )
    return tmp_path


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    """A dog of 6 pixels and the sky, 12; the rest is void."""
    for entry in IMAGES:
        image(tmp_path / "val" / str(entry["file_name"]))
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[0], ids[2:, :, 1] = (9, 0, 0), 1
    (tmp_path / "annotations" / "panoptic_val").mkdir(parents=True)
    Image.fromarray(ids).save(tmp_path / "annotations" / "panoptic_val" / "a.png")
    segments = [
        {"id": 9, "category_id": 3, "area": 6, "iscrowd": 0},
        {"id": 256, "category_id": 5, "area": 12, "iscrowd": 0},
    ]
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    content = {"images": IMAGES, "annotations": [annotation], "categories": CATEGORIES}
    write(tmp_path, "panoptic_val", content)
    return tmp_path


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Images beside masks of two classes, and one image without."""
    for name in ("a", "b", "c"):
        image(tmp_path / "images" / f"{name}.png", (3, 1))
    labels(tmp_path / "masks" / "a.png", [[0, 1, 255]])
    labels(tmp_path / "masks" / "b.png", [[1, 1, 1]])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def test_instances_are_counted(instances: Path) -> None:
    (part,) = check(instances)
    assert (part.kind, part.images, part.not_annotated, part.annotations) == ("instances", 2, 1, 3)
    assert (part.empty, part.classes) == (1, {"dog": 3, "sky": 0})


def test_panoptic_segments_are_counted(panoptic: Path) -> None:
    (part,) = check(panoptic)
    assert (part.images, part.not_annotated, part.annotations) == (2, 1, 2)
    assert part.classes == {"dog": 1, "sky": 1}


def test_masks_beside_images_are_counted_by_the_images_that_show_a_class(maps: Path) -> None:
    (part,) = check(maps)
    assert (part.kind, part.images, part.not_annotated) == ("semantic", 3, 1)
    assert part.classes == {"cat": 1, "dog": 2}


def test_captions_are_counted(instances: Path) -> None:
    captions = [{"id": i, "image_id": 1, "caption": text} for i, text in enumerate(("a", "b"))]
    file = write(instances, "captions_val", {"images": IMAGES, "annotations": captions})
    found = {part.kind: part for part in check(instances)}
    assert (found["captions"].images, found["captions"].annotations) == (1, 2)
    captions[1]["caption"] = " "
    file.write_text(json.dumps({"images": IMAGES, "annotations": captions}))
    with pytest.raises(InputError, match=r"captions_val\.json: a\.png has an empty caption"):
        check(instances)
    captions[1]["image_id"] = 9
    file.write_text(json.dumps({"images": IMAGES, "annotations": captions}))
    with pytest.raises(InputError, match=r"captions_val\.json: image_id 9 is not among 'images'"):
        check(instances)


DOG = "annotation 7: "


@pytest.mark.parametrize(
    ("edit", "value", "message"),
    [
        ("annotations.0.segmentation", [[0, 0, 1, 1]], DOG + "a polygon needs 3 or more points"),
        ("annotations.0.segmentation", [[0, 0, 1, 1, 1e9, 0]], DOG + "a polygon leaves the image"),
        ("annotations.0.segmentation", [[0, 0, 1, 1, math.nan, 0]], DOG + "a polygon leaves"),
        ("annotations.0.segmentation", [], DOG + "'segmentation' is neither polygons nor"),
        ("annotations.0.segmentation", {"size": [6, 4], "counts": [24]}, DOG + "run lengths of si"),
        ("annotations.0.segmentation", {"size": [4, 6], "counts": [9]}, DOG + "run lengths sum to"),
        ("annotations.0.segmentation", {"size": [4, 6], "counts": "0"}, DOG + "run lengths"),
        ("annotations.0.segmentation", {"size": [4, 6], "counts": [-1, 25]}, DOG + "run lengths h"),
        ("annotations.0.bbox", [0, 0, -1, 2], DOG + "'bbox' is not x, y, width and height"),
        ("annotations.0.bbox", "0 0 1 1", DOG + "'bbox' is not x, y, width and height"),
        ("annotations.0.id", 8, r"instances_val\.json: annotation id 8 is there twice"),
        ("annotations.0.category_id", 4, r"annotations\[0\]: category_id 4 is not among"),
        ("annotations.0.image_id", 4, r"annotations\[0\]: image_id 4 is not among"),
        ("images.1.file_name", "a.png", r"file_name a\.png is there twice"),
        ("images.1.file_name", "../../a.png", r"images\[1\]: file_name .* leaves the data folder"),
        ("images.1.file_name", "c.png", r"val.c\.png: no such file"),
        ("images.1.width", 7, r"b\.png: the image is 4 x 6, its annotations say 4 x 7"),
        ("images.1.id", 1, r"images\[1\]: id 1 is there twice"),
    ],
)
def test_what_is_wrong_with_instances_is_named(
    instances: Path, edit: str, value: object, message: str
) -> None:
    change(instances / "annotations" / "instances_val.json", edit, value)
    with pytest.raises(InputError, match=message):
        check(instances)


@pytest.mark.parametrize(
    ("edit", "value", "message"),
    [
        ("segments_info.0.area", 5, r"segment 9 of a\.png: 'area' is 5, the PNG has 6 pixels"),
        ("segments_info.0.id", 10, r"a\.png: segment 10 has no pixel in the PNG"),
        ("segments_info", [], r"a\.png: segment 9 of the PNG is not in 'segments_info'"),
        ("segments_info.0.category_id", 4, r"segments_info\[0\]: category_id 4 is not among"),
        ("file_name", "b.png", r"panoptic_val.b\.png: no such file"),
        ("file_name", "/etc/a.png", "leaves the data folder"),
    ],
)
def test_what_is_wrong_with_segments_is_named(
    panoptic: Path, edit: str, value: object, message: str
) -> None:
    change(panoptic / "annotations" / "panoptic_val.json", f"annotations.0.{edit}", value)
    with pytest.raises(InputError, match=message):
        check(panoptic)


def change(file: Path, edit: str, value: object) -> None:
    content = json.loads(file.read_text())
    target: Any = content
    *keys, last = [int(key) if key.isdigit() else key for key in edit.split(".")]
    for key in keys:
        target = target[key]
    target[last] = value
    file.write_text(json.dumps(content))


JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 3, 7, 1e9, math.nan, "", "a.png", "../a", "0", [], [[]], [None], {}]
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(places=st.lists(st.integers(0, 999), min_size=1, max_size=2), junk=JUNK)
@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_whatever_stands_in_an_annotation_file_is_read_or_refused(
    kind: str, places: list[int], junk: Any, request: pytest.FixtureRequest
) -> None:
    """Any value anywhere in place of what was there: one sentence, or it does not matter."""
    root = request.getfixturevalue(kind)
    file = root / "annotations" / f"{kind}_val.json"
    whole = file.read_text()
    content = json.loads(whole)
    for place in places:
        holders = list(_holders(content))
        holder, key = holders[place % len(holders)]
        holder[key] = junk
    file.write_text(json.dumps(content))
    with contextlib.suppress(OvsegError):
        check(root)
    file.write_text(whole)


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in parsed JSON, as the list or object that holds it and its key."""
    keys = range(len(value)) if isinstance(value, list) else ()
    for key in list(value) if isinstance(value, dict) else keys:
        yield value, key
        yield from _holders(value[key])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: truncate(p / "val" / "b.png"), r"b\.png: cannot be read as an image"),
        (lambda p: (p / "val" / "b.png").write_bytes(b""), r"b\.png: cannot be read as an image"),
        (lambda p: (p / "val" / "b.png").unlink(), r"b\.png: no such file"),
        (lambda p: shutil.rmtree(p / "val"), r"val: no such folder"),
        (
            lambda p: (p / "annotations" / "panoptic_val.json").write_text('{"images": [\n1,,'),
            r"panoptic_val\.json: not valid JSON at line 2, column 3",
        ),
        (
            lambda p: labels(p / "annotations" / "panoptic_val" / "a.png", [[1] * 6] * 4),
            r"a\.png: a panoptic PNG has mode RGB, not L",
        ),
        (
            lambda p: image(p / "annotations" / "panoptic_val" / "a.png", (4, 6)),
            r"a\.png: the PNG is 6 x 4, its image is 4 x 6",
        ),
        (
            lambda p: truncate(p / "annotations" / "panoptic_val" / "a.png"),
            r"panoptic_val.a\.png: cannot be read as an image",
        ),
    ],
)
def test_a_damaged_file_is_named(
    panoptic: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(panoptic)
    with pytest.raises(InputError, match=message):
        check(panoptic)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: labels(p / "masks" / "b.png", [[0, 2, 7]]),
            r"masks.b\.png: value 2 is of none of the 2 classes; they are 0 to 1",
        ),
        (lambda p: labels(p / "masks" / "b.png", [[0, 1]]), r"b\.png: the image is 1 x 3, its"),
        (lambda p: image(p / "masks" / "b.png", (3, 1)), r"b\.png: a label map has one channel"),
        (lambda p: (p / "images" / "b.png").unlink(), r"images: no b with ending"),
        (lambda p: truncate(p / "images" / "c.png"), r"c\.png: cannot be read as an image"),
        (lambda p: (p / "classes.txt").write_text("cat\ncat\n"), r"classes\.txt"),
    ],
)
def test_what_is_wrong_with_masks_is_named(
    maps: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(maps)
    with pytest.raises(OvsegError, match=message):
        check(maps)


def test_zero_is_no_class_where_classes_count_from_one(maps: Path) -> None:
    given = {"images": "images", "maps": "masks", "classes": f"@{maps / 'classes.txt'}"}
    options = folder_options(str(maps), None, values="index_from_one", **given)
    (part,) = check(maps, options=options)
    assert part.classes == {"cat": 2, "dog": 0}
    labels(maps / "masks" / "b.png", [[0, 2, 3]])
    with pytest.raises(InputError, match="value 3 is of none of the 2 classes; they are 1 to 2"):
        check(maps, options=options)


def test_label_maps_beside_images_need_their_folder_and_classes_alone(maps: Path) -> None:
    said = {"maps": "masks", "classes": f"@{maps / 'classes.txt'}"}
    (part,) = check(maps, options=folder_options(str(maps), None, **said))
    assert (part.images, part.not_annotated) == (3, 1)
    (maps / "val.txt").write_text("a\n")
    (part,) = check(maps, options=folder_options(str(maps), None, file="val.txt", **said))
    assert part.images == 1


def test_a_dataset_without_images_is_refused(maps: Path, instances: Path) -> None:
    for path in maps.glob("masks/*"):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(
        InputError, match=r"masks: no label map; they end with \.png, \.tif, \.tiff"
    ):
        check(maps, split="all")
    write(instances, "instances_val", {"images": [], "annotations": [], "categories": CATEGORIES})
    with pytest.raises(InputError, match="-val: there is no image in this instances dataset"):
        check(instances, split="val")


def test_what_a_folder_holds_can_be_said(instances: Path) -> None:
    shutil.move(instances / "annotations" / "instances_val.json", instances / "mine.json")
    with pytest.raises(UsageError, match=r"no dataset is found here; there should be annotations/"):
        check(instances)
    said = {"file": "mine.json", "images": "val"}
    (part,) = check(instances, options=folder_options(str(instances), None, **said))
    assert part.annotations == 3
    with pytest.raises(UsageError, match="label maps need --maps, their folder, and --classes"):
        folder_options("x", None, maps="masks")
    with pytest.raises(UsageError, match="annotations: expected"):
        folder_options("x", None, annotations="panoptik")
    assert folder_options("x", "val", maps=None) is None


def test_a_class_list_is_looked_for_in_the_file(panoptic: Path) -> None:
    options = folder_options(
        str(panoptic), "val", annotations="panoptic", classes="coco_panoptic_133"
    )
    with pytest.raises(InputError, match=r"'categories' lacks id 1 \(person\) of coco_panoptic"):
        check(panoptic, options=options)


def test_a_split_can_be_chosen(instances: Path) -> None:
    shutil.copy(
        instances / "annotations" / "instances_val.json",
        instances / "annotations" / "instances_more.json",
    )
    with pytest.raises(InputError, match="more: no such folder"):
        check(instances)
    (part,) = check(instances, split="val")
    assert part.name == f"{instances.name}-val"
    with pytest.raises(UsageError, match=r"--split test: .* has .*-more, .*-val"):
        check(instances, split="test")


def test_a_known_dataset_is_checked_where_it_lies(tmp_path: Path) -> None:
    voc = known_dataset("pascal_voc_21")
    root = tmp_path / voc.root
    image(root / "images" / "val" / "x.jpg", (3, 1))
    labels(root / "annotations_pascal21" / "val" / "x.png", [[0, 20, 255]])
    (part,) = check_dataset("pascal_voc_21", data=tmp_path, workers=1)
    assert part.name == "pascal_voc_21-val"
    assert {name for name, count in part.classes.items() if count} == {"background", "tvmonitor"}
    with pytest.raises(UsageError, match=r"pascal_voc_20: not here in .*OVSEG_DATA"):
        check_dataset("pascal_voc_20", data=tmp_path)
    with pytest.raises(UsageError, match="pascal_voc_21: it is known where its parts lie"):
        check_dataset(
            "pascal_voc_21", data=tmp_path, options=folder_options("x", None, images="images")
        )
    with pytest.raises(
        UsageError, match="nowhere: no such folder, and no dataset 'nowhere'; there are coco_pano"
    ):
        check_dataset("nowhere", data=tmp_path)
    with pytest.raises(UsageError, match="pascal_voc_21: no split 'test'; it has train, val"):
        check_dataset("pascal_voc_21", data=tmp_path, split="test")


def test_the_list_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    found = {entry["name"]: entry for entry in list_datasets(tmp_path)}
    assert found["cityscapes"]["mend"] == "ovseg datasets prepare cityscapes"
    assert found["lvis"]["mend"].startswith("put its archives, as they are, into")
    assert [entry["name"] for entry in list_datasets(tmp_path, ["lvis"])] == ["lvis"]
    with pytest.raises(UsageError, match=r"--data .*nowhere: no such folder"):
        list_datasets(tmp_path / "nowhere")


def test_the_commands_answer(instances: Path, tmp_path: Path) -> None:
    def answer(*words: str) -> Any:
        result = CliRunner().invoke(app, ["datasets", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    line = ("check", str(instances), "--workers", "1")
    assert json.loads(answer(*line, "--json"))[0]["classes"] == {"dog": 3, "sky": 0}
    assert "images without annotation" in answer(*line)
    listed = json.loads(answer("list", "--data", str(tmp_path), "--json"))
    assert {entry["state"] for entry in listed} == {"not here"}
    assert "mapillary" in answer("list", "--data", str(tmp_path))
    assert "put its archives" in answer("list", "lvis", "--data", str(tmp_path))


@needs_samples
def test_real_instances() -> None:
    (part,) = check(SAMPLES / "coco128_instances", split="train2017")
    assert (part.images, part.annotations, part.empty) == (128, 939, 0)
    assert sum(count > 0 for count in part.classes.values()) == 71


@needs_samples
def test_real_panoptic_annotations() -> None:
    folder = SAMPLES / "coco_panoptic_samples" / "sample_data"
    options = folder_options(
        str(folder),
        None,
        annotations="panoptic",
        file="panoptic_examples.json",
        images="input_images",
        classes="coco_panoptic_133",
    )
    (part,) = check(folder, options=options)
    assert (part.images, part.annotations, part.classes["person"]) == (2, 50, 28)


@needs_samples
def test_real_label_maps() -> None:
    folder = SAMPLES / "ade20k_samples" / "sampleData"
    options = folder_options(
        str(folder),
        None,
        images="images",
        maps="annotations",
        classes="ade20k_150",
        values="index_from_one",
    )
    (part,) = check(folder, options=options)
    assert (part.images, part.classes["wall"], part.annotations) == (3, 3, 25)


@needs_samples
def test_real_lvis_annotations(tmp_path: Path) -> None:
    source = SAMPLES / "lvis_val100" / "lvis_val_100.json"
    content = json.loads(source.read_text())
    for entry in content["images"]:
        path = tmp_path / "/".join(entry["coco_url"].split("/")[-2:])
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (entry["width"], entry["height"])).save(path)
    (tmp_path / "annotations").mkdir()
    shutil.copy(source, tmp_path / "annotations" / "lvis_v05_val.json")
    (part,) = check(tmp_path)
    assert (part.images, part.annotations) == (100, 977)
