"""COCO's annotations read for some of the classes alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ovseg_cli.datasets.class_lists import ClassList, Part
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

COCO_48_17 = ClassList(builtin_ids("coco_48_17"), builtin_vocabulary("coco_48_17"))
SQUARE = [[0, 0, 2, 0, 2, 2, 0, 2]]


def write(root: Path, content: object, name: str = "instances_val") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's 80 things, and an image each of: person and dog, kite, dog alone, traffic light."""
    (tmp_path / "val").mkdir()
    categories = zip(builtin_ids("coco_80"), builtin_vocabulary("coco_80").names, strict=True)
    images = [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 6} for i in range(1, 6)]
    found = [(1, 1), (1, 18), (2, 38), (3, 18), (4, 10)]
    annotations = [
        {"id": i, "image_id": image_id, "category_id": category, "segmentation": SQUARE}
        for i, (image_id, category) in enumerate(found, start=1)
    ]
    for image in images:
        Image.new("RGB", (6, 4)).save(tmp_path / "val" / str(image["file_name"]))
    write(
        tmp_path,
        {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in categories],
        },
    )
    return tmp_path


def read(root: Path, part: Part, classes: ClassList | None = COCO_48_17) -> CocoDataset:
    return CocoDataset(root, "val", annotations="instances", class_list=classes, part=part)


@pytest.mark.parametrize(
    ("part", "count", "found"),
    [
        ("all", 65, {1: ["person", "dog"], 2: ["kite"], 3: ["dog"]}),
        ("seen", 48, {1: ["person"], 2: ["kite"]}),
        ("unseen", 17, {1: ["dog"], 3: ["dog"]}),
    ],
)
def test_the_official_file_is_read_as_48_17_or_65_classes(
    root: Path, part: Part, count: int, found: dict[int, list[str]]
) -> None:
    dataset = read(root, part)
    assert len(dataset.vocabulary) == count
    names = dataset.vocabulary.names
    assert {s.image_id: [names[i] for i in s.labels.tolist()] for s in dataset} == found
    assert all(len(sample.masks) == len(sample.labels) for sample in dataset)


def test_without_a_list_every_image_stays(root: Path) -> None:
    assert len(CocoDataset(root, "val", annotations="instances")) == 5
    assert len(read(root, "all", None)) == 5
    assert len(read(root, "seen", None)) == 5  # nothing is known to be unseen


def test_unseen_classes_of_a_dataset_that_knows_none_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"instances_val\.json: no unseen class is left; choose"):
        read(root, "unseen", None)


def test_a_ready_made_file_of_the_seen_classes_is_learned_from_alike(root: Path) -> None:
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    vocabulary = COCO_48_17.vocabulary
    seen = {i for i, known in zip(COCO_48_17.ids, vocabulary.seen, strict=True) if known}
    content["categories"] = [c for c in content["categories"] if c["id"] in seen]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in seen]
    kept = {annotation["image_id"] for annotation in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    official = [(s.image_id, s.labels.tolist()) for s in read(root, "seen")]
    write(root, content)
    assert [(s.image_id, s.labels.tolist()) for s in read(root, "seen")] == official
    with pytest.raises(InputError, match=r"'categories' lacks id 5 \(airplane\) of the chosen"):
        read(root, "all")


def test_a_list_gives_its_words_and_keeps_the_files_seen_classes(root: Path) -> None:
    names = ["cat", "dog"]
    write(root, {"names": names, "seen": [True, False]}, "vocabulary")
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    content["categories"] = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    content["annotations"] = content["annotations"][1:2]
    write(root, content)
    words = Vocabulary(("kitten", "puppy"), (("kitten",), ("puppy", "pup")), (True, True))
    vocabulary = read(root, "all", ClassList((17, 18), words)).vocabulary
    assert vocabulary.synonyms == words.synonyms
    assert vocabulary.seen == (True, False)
    assert read(root, "unseen", ClassList((17, 18), words)).vocabulary.names == ("puppy",)


def test_instances_take_the_things_of_a_list(root: Path) -> None:
    words = Vocabulary(("dog", "sky"), (("dog",), ("sky",)), (True, False))
    assert read(root, "all", ClassList((18, 187), words)).vocabulary.names == ("dog",)


def test_annotations_and_images_may_lie_elsewhere(root: Path) -> None:
    (root / "val").rename(root / "pictures")
    (root / "annotations" / "instances_val.json").rename(root / "things.json")
    dataset = CocoDataset(
        root, "val", annotations="instances", images="pictures", file="things.json"
    )
    assert dataset[0].masks.shape == (2, 4, 6)
    with pytest.raises(InputError, match=r"other\.json: no such file"):
        CocoDataset(root, "val", annotations="instances", file="other.json")
