"""Label maps as panoptic annotations, and what the zero-shot protocol makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli.cli import app
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps, pixel_values
from ovseg_cli.errors import InputError, UsageError
from ovseg_cli.metrics.class_groups import class_groups, harmonic_mean
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.convert_maps import LabelMaps, convert_maps
from ovseg_cli.stages.scores import Scores
from ovseg_cli.stages.session import Settings, dataset_of
from ovseg_cli.stages.targets import target_dataset
from ovseg_cli.structures import Sample, Segmentation
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary

VOC = LabelMaps("pascal_voc_15_5", "maps", images="JPEGImages", values="id")
PERSON, SHEEP = 14, 16  # indices of ids 15 and 17


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC's values: 0 is background, 15 a person (seen), 17 a sheep (unseen), 255 void."""
    for folder in ("JPEGImages", "maps"):
        (tmp_path / folder).mkdir()
    maps = ([[0, 15, 15], [17, 255, 15]], [[17, 17], [0, 0]], [[0]])
    for name, rows in zip(("2007_01", "2007_02", "2007_03"), maps, strict=True):
        values = np.array(rows, np.uint8)
        Image.fromarray(values).save(tmp_path / "maps" / f"{name}.png")
        Image.new("RGB", values.shape[::-1]).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    return tmp_path


def settings_of(root: Path, **options: str) -> Settings:
    section = {"root": str(root), "images": "JPEGImages", **options}
    return Settings(Run(root / "run"), Recipe("r", sections={"dataset": section}))


def test_images_of_a_list_may_lie_in_folders(root: Path) -> None:
    for folder, ending in (("JPEGImages", "jpg"), ("maps", "png")):
        for place, name in (("a", "2007_01"), ("b", "2007_02")):
            (root / folder / place).mkdir()
            (root / folder / f"{name}.{ending}").rename(root / folder / place / f"7.{ending}")
    (root / "names.txt").write_text("a/7.jpg\nb/7.jpg\n")
    convert_maps(root, "val", replace(VOC, names="names.txt"))
    dataset = CocoDataset(root, "val", images="JPEGImages")
    assert [sample.file_name for sample in dataset] == ["a/7.jpg", "b/7.jpg"]
    assert [sample.labels.tolist() for sample in dataset] == [[PERSON, SHEEP], [SHEEP]]
    assert [record.image_id for record in dataset.records] == [1, 2]


def test_a_segment_for_each_class_of_an_image(root: Path) -> None:
    figures = convert_maps(root, "val", VOC)
    assert figures == {
        "images": 2, "left out": 1, "segments": 3, "seen classes": 15, "unseen classes": 5
    }  # fmt: skip
    dataset = CocoDataset(root, "val", images="JPEGImages")
    assert dataset.vocabulary.names == builtin_vocabulary("pascal_voc_15_5").names
    assert dataset.vocabulary.seen == builtin_vocabulary("pascal_voc_15_5").seen
    first, second = dataset
    assert first.file_name == "2007_01.jpg"
    assert first.labels.tolist() == [PERSON, SHEEP]
    assert first.masks.int().tolist() == [[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [1, 0, 0]]]
    assert second.labels.tolist() == [SHEEP]
    content = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    person = content["annotations"][0]["segments_info"][0]
    assert person == {
        "id": 15, "category_id": 15, "iscrowd": 0, "area": 3, "bbox": [1, 0, 2, 2]
    }  # fmt: skip


def test_training_sees_no_mask_of_an_unseen_class(root: Path) -> None:
    convert_maps(root, "val", VOC)
    for classes in ({}, {"classes": "pascal_voc_15_5"}):
        learned = dataset_of(settings_of(root, **classes), "val", part="seen")
        assert len(learned.vocabulary) == 15
        assert [sample.labels.tolist() for sample in learned] == [[PERSON]]
        assert len(dataset_of(settings_of(root, **classes), "val")) == 2


def test_seen_unseen_and_harmonic_iou_by_hand(root: Path) -> None:
    """Three pixels of a person, one of which is called a sheep, and three of sheep."""
    convert_maps(root, "val", VOC)
    dataset = CocoDataset(root, "val", images="JPEGImages")
    scores = Scores(dataset.vocabulary, tasks=("semantic",))
    for sample in dataset:
        called = torch.where(class_map_of(sample) == PERSON, PERSON, SHEEP)
        called[0, :2] = torch.tensor([SHEEP, SHEEP])
        scores.update(Segmentation(semantic=called), sample)
    found = scores.compute()[0]["semantic"]
    assert found["base"]["miou"] == pytest.approx(2 / 3)  # one of three pixels is lost
    assert found["novel"]["miou"] == pytest.approx(3 / 4)  # and becomes the fourth of the sheep
    expected = 2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4)
    assert found["harmonic"] == pytest.approx({"miou": expected, "miou_union": expected})


def class_map_of(sample: Sample) -> torch.Tensor:
    found = torch.full(sample.masks.shape[1:], -1)
    for mask, label in zip(sample.masks, sample.labels, strict=True):
        found[mask] = label
    return found


@pytest.mark.parametrize(
    ("name", "seen", "unseen", "harmonic", "mean"),
    [
        ("coco_stuff_156_15", 43.3, 50.4, 46.6, 43.9),
        ("pascal_voc_15_5", 91.4, 81.8, 86.3, 89.0),
    ],
)
def test_the_groups_are_those_of_mafts_tables(
    name: str, seen: float, unseen: float, harmonic: float, mean: float
) -> None:
    """Tables 1 and 8: seen, unseen, their harmonic mean, and the mean over all classes."""
    groups = class_groups(builtin_vocabulary(name))
    counts = len(groups["base"]), len(groups["novel"])
    assert harmonic_mean(seen, unseen) == pytest.approx(harmonic, abs=0.05)
    whole = (counts[0] * seen + counts[1] * unseen) / sum(counts)
    assert whole == pytest.approx(mean, abs=0.05)


def test_a_target_can_be_read_from_the_maps_themselves(root: Path) -> None:
    target = {
        "root": str(root),
        "annotations": "semantic",
        "classes": "pascal_voc_15_5",
        "images": "JPEGImages",
        "maps": "maps",
        "values": "id",
    }
    recipe = Recipe("r", sections={"targets": {"voc": target}})
    dataset = target_dataset(Settings(Run(root / "run"), recipe), "voc")
    assert [sample.labels.tolist() for sample in dataset] == [[PERSON, SHEEP], [SHEEP], []]
    assert sum(dataset.vocabulary.seen) == 15


def test_coco_stuffs_values_are_ids_less_one_and_its_holes_are_void(tmp_path: Path) -> None:
    for folder in ("train2017", "maps"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.array([[0, 11, 181, 255]], np.uint8)).save(tmp_path / "maps" / "000009.png")
    Image.new("RGB", (4, 1)).save(tmp_path / "train2017" / "000009.jpg")
    ids = builtin_ids("coco_stuff_171")
    maps = SemanticMaps(
        tmp_path,
        "train2017",
        builtin_vocabulary("coco_stuff_171"),
        images="train2017",
        maps="maps",
        values=pixel_values("id_from_zero", ids),
    )
    assert maps.label_map(0).tolist() == [[0, -1, 170, -1]]  # person, id 12 is a hole, wood
    options = LabelMaps("coco_stuff_171", "maps", values="id_from_zero")
    figures = convert_maps(tmp_path, "train2017", options)
    assert (figures["seen classes"], figures["unseen classes"]) == (0, 0)
    assert not (tmp_path / "annotations" / "vocabulary.json").exists()
    dataset = CocoDataset(tmp_path, "train2017")
    assert dataset[0].image_id == 9  # as COCO's captions count
    assert [dataset.vocabulary.names[label] for label in dataset[0].labels] == ["person", "wood"]


def test_unseen_classes_by_name_or_by_how_rare_they_are(root: Path) -> None:
    (root / "unseen.txt").write_text("person\ndog\n")
    options = LabelMaps("pascal_voc_20", "maps", "JPEGImages", values="id")
    by_name = LabelMaps(**{**options.__dict__, "unseen": f"@{root / 'unseen.txt'}"})
    assert convert_maps(root, "val", by_name)["unseen classes"] == 2
    vocabulary = CocoDataset(root, "val", images="JPEGImages").vocabulary
    assert [n for n, s in zip(vocabulary.names, vocabulary.seen, strict=True) if not s] == [
        "dog", "person"
    ]  # fmt: skip
    rare = LabelMaps(**{**options.__dict__, "rare": 1})
    assert convert_maps(root, "val", rare)["seen classes"] == 1  # the sheep is in two images
    vocabulary = CocoDataset(root, "val", images="JPEGImages").vocabulary
    assert vocabulary.seen.index(True) == SHEEP


def test_what_cannot_be_used_is_refused(root: Path) -> None:
    both = LabelMaps("pascal_voc_20", "maps", "JPEGImages", unseen="dog", rare=3)
    with pytest.raises(UsageError, match="--unseen and --rare: both say"):
        convert_maps(root, "val", both)
    unknown = LabelMaps("pascal_voc_20", "maps", "JPEGImages", unseen="unicorn")
    with pytest.raises(UsageError, match="--unseen: 'unicorn' is no class of pascal_voc_20"):
        convert_maps(root, "val", unknown)
    (root / "one.txt").write_text("2007_03")
    empty = LabelMaps("pascal_voc_20", "maps", "JPEGImages", names="one.txt", values="id")
    with pytest.raises(InputError, match="val: no label map has a pixel of a class"):
        convert_maps(root, "val", empty)
    assert not (root / "annotations" / "panoptic_val.json").exists()


def test_the_command_tells_what_it_made(root: Path) -> None:
    arguments = ["datasets", "from-maps", str(root), "--split", "val", "--maps", "maps", "--json"]
    arguments += ["--classes", "pascal_voc_15_5", "--images", "JPEGImages", "--values", "id"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["unseen classes"] == 5
