"""The list of known datasets, and that the shipped recipes look where it says."""

from dataclasses import replace
from pathlib import Path

import pytest

from ovseg_cli.datasets.known import KnownDataset, known_dataset, known_datasets
from ovseg_cli.errors import UsageError
from ovseg_cli.recipe import build, load_recipe, shipped_recipes
from ovseg_cli.stages.targets import SECTION, TargetOptions
from ovseg_cli.vocabulary import builtin_vocabulary

SCORED = [dataset for dataset in known_datasets() if dataset.tasks]
WHERE = ("annotations", "images", "file", "maps", "values")


def make(dataset: KnownDataset, split: str, data: Path) -> None:
    """Empty folders and files where the split's parts lie."""
    for part, name in dataset.splits[split].items():
        path = data / dataset.root / name
        if part == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.with_suffix("").mkdir(exist_ok=True)
        else:
            path.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("dataset", SCORED, ids=lambda dataset: dataset.name)
def test_a_known_dataset_can_be_a_target(dataset: KnownDataset) -> None:
    for split in dataset.splits:
        options = build("x", {"root": dataset.root, **dataset.layout(split)}, TargetOptions)
        assert options.annotations != "semantic" or (options.classes and options.maps)
    if dataset.classes is not None:
        assert len(builtin_vocabulary(dataset.classes)) > 0
    assert dataset.source.startswith("http")
    assert dataset.licence


def test_names_are_different() -> None:
    names = [dataset.name for dataset in known_datasets()]
    assert len(set(names)) == len(names)


def recipe_targets() -> list[tuple[str, str, dict[str, object]]]:
    return [
        (recipe, name, options)
        for recipe in shipped_recipes()
        for name, options in load_recipe(recipe).section(SECTION).items()
    ]


@pytest.mark.parametrize(
    ("recipe", "name", "said"), recipe_targets(), ids=lambda value: str(value)[:24]
)
def test_a_shipped_recipes_target_is_a_known_datasets_split(
    recipe: str, name: str, said: dict[str, object]
) -> None:
    target = build(name, said, TargetOptions)
    known = [
        replace(build("x", {"root": d.root, **d.layout(split)}, TargetOptions), classes=None)
        for d in SCORED
        for split in d.splits
        if d.root == target.root and d.classes in (target.classes, None, *_own(target))
    ]
    places = [{key: getattr(options, key) for key in WHERE} for options in known]
    usual = {
        "images": target.split,
        "file": f"annotations/{target.annotations}_{target.split}.json",
    }
    usual = usual if target.annotations != "semantic" else {"images": target.split}
    found = {key: getattr(target, key) for key in WHERE}
    assert found | {key: found[key] or path for key, path in usual.items()} in places


def _own(target: TargetOptions) -> tuple[str, ...]:
    """A target that takes the names of its annotation file may be of any list."""
    lists = tuple(d.classes for d in SCORED if d.classes is not None)
    return lists if target.classes is None else ()


def test_the_state_is_told_from_what_lies_there(tmp_path: Path) -> None:
    cityscapes, stuff = known_dataset("cityscapes"), known_dataset("coco_stuff")
    assert cityscapes.state(tmp_path) == "not here"
    (tmp_path / "cityscapes" / "gtFine" / "val").mkdir(parents=True)
    assert cityscapes.state(tmp_path) == "not prepared"
    make(cityscapes, "val", tmp_path)
    assert cityscapes.state(tmp_path) == "here"
    assert cityscapes.splits_here(tmp_path) == ("val",)
    make(stuff, "val2017", tmp_path)
    assert stuff.splits_here(tmp_path) == ("val2017",)


@pytest.mark.parametrize("folder", [".", "pascal_voc_d2"])
def test_an_archive_may_lie_beside_the_folder_or_in_it(tmp_path: Path, folder: str) -> None:
    archive = tmp_path / folder / "VOCtrainval_11-May-2012.tar"
    archive.parent.mkdir(exist_ok=True)
    archive.touch()
    assert known_dataset("pascal-voc-20").state(tmp_path) == "not prepared"


def test_panoptic_files_alone_are_not_enough(tmp_path: Path) -> None:
    coco = known_dataset("coco_panoptic")
    make(coco, "val2017", tmp_path)
    assert coco.state(tmp_path) == "here"
    (tmp_path / "coco" / "annotations" / "panoptic_val2017").rmdir()
    assert coco.state(tmp_path) == "not prepared"


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="no dataset 'coko'; there are coco_panoptic,"):
        known_dataset("coko")
    with pytest.raises(UsageError, match="coco_stuff: no split 'val'; it has train2017, val2017"):
        known_dataset("coco_stuff").layout("val")
