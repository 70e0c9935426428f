"""Another run directory's masks, named by one's own CLIP."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from untrained_run import CLIP, RECIPE, untrained_run

from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.datasets.framing import frame_image
from ovseg_cli.errors import RecipeError, RunError
from ovseg_cli.recipe import Recipe, parse_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.given_masks import given_masks
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.session import Settings

OPTIONS = {"images": 2, "crop_accuracy": False, "tasks": ["panoptic"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    options = ShapesOptions(
        seed=1, train=1, val=1, test=2, pairs_easy=1, pairs_crop=1, pairs_window=1
    )
    make_shapes(folder, options)
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Run:
    """A run directory whose recipe sees images at half their size."""
    run = Run(untrained_run(tmp_path / "theirs"))
    recipe = run.recipe()
    framing = {"short_side": 64, "max_side": None}
    run.save_recipe(Recipe("theirs", sections={**recipe.sections, "framing": framing}))
    return run


@pytest.fixture
def ours(tmp_path: Path) -> Run:
    """A run directory with a CLIP alone."""
    run = Run(tmp_path / "ours")
    torch.manual_seed(1)
    clip = build_small_clip(**CLIP)
    run.save_artifact("clip", "base", clip.state_dict(), {"architecture": "small", "options": CLIP})
    return run


def settings_of(run: Run, shapes: Path, **options: object) -> Settings:
    sections = parse_recipe(RECIPE, name="untrained").sections
    evaluation = {**OPTIONS, **options}
    sections = {**sections, "dataset": {"root": str(shapes)}, "evaluate": evaluation}
    return Settings(run, Recipe("test", sections=sections))


def test_the_masks_are_theirs_and_the_names_ours(theirs: Run, ours: Run, shapes: Path) -> None:
    evaluation = evaluate(settings_of(ours, shapes, masks_from=str(theirs.path)))
    assert evaluation.folder.name == "theirs.teacher-base"
    settings = settings_of(theirs, shapes)
    settings.recipe.sections["framing"] = {"short_side": 64, "max_side": None}
    reference = evaluate(settings)
    assert evaluation.results["proposal_recall"] == reference.results["proposal_recall"]
    assert evaluation.results["mask_accuracy"] != reference.results["mask_accuracy"]
    content = json.loads((evaluation.folder / "metrics.json").read_text())
    assert set(content["artifacts"]) == {"clip/base", f"{theirs.path}/proposals/teacher"}


def test_with_the_same_clip_nothing_tells_them_from_ones_own(
    theirs: Run, shapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(theirs.path, tmp_path / "copy")
    settings = settings_of(theirs, shapes)
    settings.recipe.sections["framing"] = {"short_side": 64, "max_side": None}
    own = evaluate(settings, name="own")
    given = evaluate(settings_of(theirs, shapes, masks_from=str(tmp_path / "copy")))
    assert given.results == own.results


def test_the_recipe_names_which_of_their_proposals(theirs: Run, ours: Run, shapes: Path) -> None:
    tensors, model = theirs.load_artifact("proposals", "teacher")
    theirs.save_artifact("proposals", "student-1", tensors, model)
    settings = settings_of(ours, shapes, masks_from=str(theirs.path))
    settings.recipe.sections["artifacts"] = {"proposals": "student-1"}
    assert evaluate(settings).folder.name == "theirs.student-1-base"


def test_only_masks_and_object_scores_are_taken(theirs: Run) -> None:
    given = given_masks(theirs.path, device=torch.device("cpu"))
    found = given.proposer.propose(
        frame_image(torch.zeros(3, 64, 96, dtype=torch.uint8), short_side=None, max_side=None)
    )
    assert found.embeddings is None
    assert len(found.mask_logits) == len(found.scores) == 5
    assert given.framing.short_side == 64


def test_annotated_and_given_masks_exclude_one_another(
    theirs: Run, ours: Run, shapes: Path
) -> None:
    settings = settings_of(ours, shapes, masks_from=str(theirs.path), oracle_masks=True)
    with pytest.raises(RecipeError, match=r"\[evaluate\] masks_from: .* not both"):
        evaluate(settings)


def test_a_folder_without_a_run_is_named(ours: Run, shapes: Path, tmp_path: Path) -> None:
    settings = settings_of(ours, shapes, masks_from=str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"masks_from: .*nowhere: no recipe.yaml"):
        evaluate(settings)
