"""`pack`: which evaluation the model card takes, and how the packed weights are checked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from untrained_run import RECIPE, untrained_run

from ovseg_cli.errors import RunError, UsageError
from ovseg_cli.recipe import Recipe, parse_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.pack import check_scores, pack
from ovseg_cli.stages.session import Settings

NONE = {"train": 0, "val": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(seed=1, test=3, **NONE))
    return folder


@pytest.fixture
def settings(tmp_path: Path, shapes: Path) -> Settings:
    sections = {
        **parse_recipe(RECIPE, name="untrained").sections,
        "dataset": {"root": str(shapes)},
        "targets": {"same": {"root": str(shapes), "split": "test"}},
    }
    return Settings(Run(untrained_run(tmp_path / "run")), Recipe("test", sections=sections))


def changed(settings: Settings, section: str, **options: Any) -> Settings:
    recipe = settings.recipe
    sections = {**recipe.sections, section: {**recipe.section(section), **options}}
    return replace(settings, recipe=replace(recipe, sections=sections))


def test_a_card_takes_no_evaluation_of_some_classes_or_of_a_target(
    settings: Settings, tmp_path: Path
) -> None:
    for protocol in ("constrained_base", "constrained_novel"):
        evaluate(changed(settings, "evaluate", protocol=protocol))
    evaluate(settings, target="same")
    evaluate(changed(settings, "evaluate", oracle_masks=True))
    with pytest.raises(RunError, match="has no evaluation of these artifacts for the model card"):
        pack(settings, tmp_path / "packed")
    whole = evaluate(settings)
    evaluate(changed(settings, "evaluate", protocol="constrained_novel"), name="later")
    card = pack(settings, tmp_path / "packed").card
    assert card["evaluation"] == {"dataset": "shapes-test", "results": whole.results}


def test_the_check_reads_the_annotations_and_classes_that_the_recipe_names(
    settings: Settings, shapes: Path, tmp_path: Path
) -> None:
    settings = changed(settings, "dataset", annotations="instances", classes="shapes")
    (shapes / "annotations" / "panoptic_test.json").rename(tmp_path / "away.json")
    try:
        whole = evaluate(settings).results
        card = pack(settings, tmp_path / "packed").card
    finally:
        (tmp_path / "away.json").rename(shapes / "annotations" / "panoptic_test.json")
    assert set(card["check"]["scores"]) == {"ap50", "recall50", "mask_accuracy"}
    assert set(whole) >= {"instance", "proposal_recall"}
    packed = Run(tmp_path / "packed")
    again = check_scores(Settings(packed, packed.recipe()), shapes)
    assert again == pytest.approx(card["check"]["scores"], nan_ok=True)


def test_a_folder_that_holds_something_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="packed: exists; give a new or empty folder"):
        pack(settings, tmp_path / "packed")
