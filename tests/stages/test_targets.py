"""A recipe's targets: other datasets, with their own sizes, thresholds and words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from untrained_run import untrained_run

from ovseg_cli.cli import app
from ovseg_cli.errors import OvsegError, RecipeError, UsageError
from ovseg_cli.recipe import Recipe, build, load_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.targets import (
    TargetOptions,
    check_targets,
    dataset_in,
    target_dataset,
    target_options,
    with_target,
)
from ovseg_cli.vocabulary import builtin_ids

TARGETS = {
    "streets": {
        "root": "maps",
        "annotations": "semantic",
        "classes": "pascal_context_59",
        "images": "images",
        "maps": "labels",
        "file": "val.txt",
    },
    "rooms": {
        "root": "rooms",
        "split": "validation",
        "images": "images/validation",
        "file": "rooms_val.json",
        "tasks": ["panoptic"],
        "short_side": 64,
        "object_threshold": 0.1,
    },
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("OVSEG_DATA", str(tmp_path / "data"))
    run = Run(untrained_run(tmp_path / "run"))
    recipe = run.recipe()
    sections = {**recipe.sections, "dataset": {"root": "coco"}, "targets": TARGETS}
    sections["vocabulary"] = {"labels": "words,for,coco"}
    return Settings(run, Recipe("test", sections=sections))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Label maps of PASCAL Context: the left half is its class 3, the right half class 40."""
    folder = tmp_path / "data" / "maps"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    labels = np.full((32, 64), 3, np.uint8)
    labels[:, 32:] = 40
    Image.fromarray(labels).save(folder / "labels" / "a.png")
    Image.new("RGB", (64, 32), (200, 10, 10)).save(folder / "images" / "a.jpg")
    (folder / "val.txt").write_text("a\n")
    return folder


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A panoptic set in ADE20K's places: the file and its PNGs at the root."""
    folder = tmp_path / "data" / "rooms"
    for name in ("images/validation", "rooms_val"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (64, 32), (10, 200, 10)).save(folder / "images" / "validation" / "a.jpg")
    Image.new("RGB", (64, 32), (1, 0, 0)).save(folder / "rooms_val" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 32, "width": 64}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "a.png",
                "segments_info": [{"id": 1, "category_id": 22}],
            }
        ],
        "categories": [{"id": 22, "name": "painting, picture", "isthing": 1}],
    }
    (folder / "rooms_val.json").write_text(json.dumps(content))
    return folder


def test_a_semantic_target_is_scored_over_its_own_classes(settings: Settings, maps: Path) -> None:
    evaluation = evaluate(settings, target="streets", name="x")
    assert evaluation.folder == settings.run.path / "evaluation" / "streets-val" / "x"
    assert {"semantic"} == set(evaluation.results) & {"semantic", "panoptic", "instance"}
    assert len(evaluation.per_class) == 59
    content = json.loads((evaluation.folder / "metrics.json").read_text())
    assert content["target"] == "streets"


def test_a_panoptic_target_has_the_names_of_its_file(settings: Settings, rooms: Path) -> None:
    evaluation = evaluate(settings, target="rooms")
    assert [row["class"] for row in evaluation.per_class] == ["painting, picture"]
    assert {"panoptic"} == set(evaluation.results) & {"semantic", "panoptic", "instance"}
    assert evaluation.folder.parent.name == "rooms-validation"


def test_words_of_the_training_say_which_classes_of_a_target_are_seen(
    settings: Settings, maps: Path, rooms: Path
) -> None:
    said = settings.run.path / "proposals" / "teacher.json"
    words = {"names": ["cat"], "synonyms": [["cat", "painting, picture"]], "is_thing": [True]}
    said.write_text(json.dumps({**json.loads(said.read_text()), "vocabulary": words}))
    painting = evaluate(settings, target="rooms")
    assert painting.per_class[0]["seen"] is True
    assert painting.results["panoptic"]["base"] == painting.results["panoptic"]["all"]
    assert "novel" not in painting.results["panoptic"]
    streets = evaluate(settings, target="streets")
    assert [row["class"] for row in streets.per_class if row["seen"]] == ["cat"]
    assert {"base", "novel", "harmonic"} <= set(streets.results["semantic"])


def test_a_target_may_have_words_of_its_own(settings: Settings, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("0:invalid_class_id\n1:tomcat,cat\n")
    targets = {**TARGETS, "rooms": {**TARGETS["rooms"], "labels": f"@{names}"}}
    recipe = Recipe("test", sections={**settings.recipe.sections, "targets": targets})
    assert with_target(recipe, "rooms").section("vocabulary") == {"labels": f"@{names}"}
    assert with_target(recipe, "streets").section("vocabulary") == {}


def test_a_target_overrides_what_it_says_and_leaves_the_rest(settings: Settings) -> None:
    recipe = with_target(settings.recipe, "rooms")
    assert recipe.section("framing") == {"short_side": 64, "max_side": None}
    assert recipe.section("inference") == {"object_threshold": 0.1, "overlap_threshold": 0.0}
    assert recipe.section("evaluate") == {"tasks": ["panoptic"]}
    assert recipe.section("vocabulary") == {}
    assert recipe.section("proposer") == settings.recipe.section("proposer")
    assert settings.recipe.section("framing") == {"short_side": None, "max_side": None}


def test_the_targets_of_a_recipe_can_be_used(settings: Settings) -> None:
    check_targets(settings.recipe)
    assert target_options(settings.recipe, "streets").split == "val"


def test_lvis_is_scored(settings: Settings, tmp_path: Path) -> None:
    """Its images have addresses, and those of the val split lie in two folders."""
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    images = []
    for number, split in enumerate(("train2017", "val2017")):
        (root / split).mkdir()
        Image.new("RGB", (64, 32), (10, 200, 10)).save(root / split / f"{number}.jpg")
        address = f"http://images.cocodataset.org/{split}/{number}.jpg"
        size = {"height": 32, "width": 64}
        looked_for = {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
        images.append({"id": number, "coco_url": address, **size, **looked_for})
    classes = builtin_ids("lvis_1203")
    square = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    content = {
        "images": images,
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": classes[0], "segmentation": square}
        ],
        "categories": [
            {"id": number, "name": f"a_{number}", "frequency": "r"} for number in classes
        ],
    }
    (root / "annotations" / "lvis_v1_val.json").write_text(json.dumps(content))
    target = load_recipe("maskclip").section("targets")["lvis"]
    options = build("lvis", target, TargetOptions)
    first, second = dataset_in(root, options)
    assert (first.file_name, second.file_name) == ("train2017/0.jpg", "val2017/1.jpg")
    assert first.labels.tolist() == [0]
    assert len(dataset_in(root, options).vocabulary) == 1203


def test_maps_may_have_classes_in_a_file_of_words(settings: Settings, maps: Path) -> None:
    names = maps / "classes.txt"
    names.write_text("\n".join(f"class {i}" for i in range(41)))
    options = TargetOptions(**{**TARGETS["streets"], "classes": f"@{names}"})
    (sample,) = dataset_in(maps, options)
    assert sample.labels.tolist() == [3, 40]
    one = replace(options, values="index_from_one")
    (sample,) = dataset_in(maps, one)
    assert sample.labels.tolist() == [2, 39]


def test_a_folder_of_ones_own_is_a_target_by_a_setting(settings: Settings, maps: Path) -> None:
    names = maps / "classes.txt"
    names.write_text("\n".join(f"class {i}" for i in range(41)))
    where = f'root: {maps}, images: images, maps: labels, classes: "@{names}"'
    said = f"{{annotations: semantic, {where}}}"
    recipe = load_recipe("tiny/masqclip", [f"targets.mine={said}"])
    check_targets(recipe)
    (sample,) = target_dataset(replace(settings, recipe=recipe), "mine")
    assert sample.labels.tolist() == [3, 40]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"root": "x", "annotations": "semantic"}, r"\[targets\.t\] annotations: semantic needs"),
        ({}, r"\[targets\.t\] root is missing"),
        ({"root": "x", "sort_side": 3}, r"\[targets\.t\] sort_side: .* did you mean 'short_side'"),
        ({"root": "x", "tasks": ["panoptik"]}, r"\[targets\.t\] tasks: expected"),
        ("coco", r"\[targets\] t: expected a mapping of options"),
    ],
)
def test_a_wrong_target_is_refused(target: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_targets(Recipe("r", sections={"targets": {"t": target}}))


def test_a_targets_name_is_a_folders_name() -> None:
    with pytest.raises(
        RecipeError, match=r"\[targets\] \.\./up: cannot be part of a folder's name"
    ):
        check_targets(Recipe("r", sections={"targets": {"../up": {"root": "x"}}}))


def test_how_a_target_is_asked_for_is_checked(settings: Settings) -> None:
    with pytest.raises(UsageError, match="no such target in the recipe; it has streets, rooms"):
        evaluate(settings, target="steets")
    with pytest.raises(UsageError, match="--split val: the target rooms names its own"):
        evaluate(settings, target="rooms", split="val")
    with pytest.raises(
        RecipeError, match=r"\[targets\.rooms\] root: no folder 'rooms' .*OVSEG_DATA"
    ):
        evaluate(settings, target="rooms")
    sections = {**settings.recipe.sections, "evaluate": {"protocol": "constrained_base"}}
    constrained = Settings(settings.run, Recipe("test", sections=sections))
    with pytest.raises(OvsegError, match=r"\[evaluate\] protocol: constrained_base is for the"):
        evaluate(constrained, target="rooms")


def test_the_command_line_takes_a_target(settings: Settings) -> None:
    settings.run.save_recipe(settings.recipe)
    line = ["evaluate", "--run", str(settings.run.path), "--target", "steets"]
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, UsageError)
    assert "--target steets: no such target" in str(result.exception)
