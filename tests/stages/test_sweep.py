"""Settings of the ensemble and sizes of the image side by side, in one pass."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner
from untrained_run import RECIPE, untrained_run

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.cli import app
from ovseg_cli.clip.small import build_small_convnext_clip
from ovseg_cli.errors import RecipeError
from ovseg_cli.mask_encoders import MaskClassTokens, MaskedCrops, MaskPooling
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.proposers.mask2former.clip_model import ClipMask2Former
from ovseg_cli.recipe import Recipe, parse_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.sweep import SweepOptions

CONVNEXT = {
    "embed_dim": 16, "image_size": 64, "depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16),
    "text_width": 16, "text_layers": 1, "text_heads": 2, "token_width": 8, "context_length": 16,
}  # fmt: skip
QUICK = {"images": 2, "mask_accuracy": False, "crop_accuracy": False, "tasks": ["panoptic"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    options = ShapesOptions(
        seed=1, train=1, val=1, test=2, pairs_easy=1, pairs_crop=1, pairs_window=1
    )
    make_shapes(folder, options)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(untrained_run(tmp_path / "run"))


@pytest.fixture
def convnext_run(run: Run) -> Run:
    """The same proposals beside a ConvNeXt."""
    torch.manual_seed(0)
    clip = build_small_convnext_clip(**CONVNEXT)
    model = {"architecture": "small_convnext", "options": CONVNEXT}
    run.save_artifact("clip", "base", clip.state_dict(), model)
    return run


def settings_of(run: Run, shapes: Path, **sections: dict) -> Settings:
    content = {**parse_recipe(RECIPE, name="untrained").sections, **sections}
    content["dataset"] = {"root": str(shapes)}
    return Settings(run, Recipe("test", sections=content))


def two_classifiers(run: Run, shapes: Path, **sections: dict) -> Settings:
    return settings_of(run, shapes, in_vocabulary={"name": "masked_crops"}, **sections)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each network is run."""
    counted: Counter = Counter()

    def count(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def counting(*arguments: object) -> object:
            counted[kind.__name__] += 1
            return method(*arguments)

        monkeypatch.setattr(kind, name, counting)

    count(Mask2Former, "propose")
    for encoder in (MaskClassTokens, MaskedCrops, MaskPooling):
        count(encoder, "encode")
    return counted


def test_a_row_is_the_evaluation_with_that_setting(run: Run, shapes: Path, calls: Counter) -> None:
    tasks = ["panoptic", "semantic"]
    sweep = {"weights": [[0.4, 0.8], [1.0, 0.0]], "tasks": tasks}
    options = {**QUICK, "tasks": tasks}
    swept = evaluate(two_classifiers(run, shapes, evaluate={**options, "sweep": sweep}))
    assert calls == {"Mask2Former": 2, "MaskClassTokens": 2, "MaskedCrops": 2}
    assert [(row["ensemble"], row["alpha"], row["beta"]) for row in swept.sweep] == [
        ("arithmetic", 0.4, 0.8),
        ("geometric", 0.4, 0.8),
        ("arithmetic", 1.0, 0.0),
        ("geometric", 1.0, 0.0),
    ]
    for row in swept.sweep[:2]:
        setting = {key: row[key] for key in ("ensemble", "alpha", "beta")}
        alone = evaluate(two_classifiers(run, shapes, evaluate=options, classification=setting))
        for task in tasks:
            assert row["results"][task] == alone.results[task]
    content = json.loads((swept.folder / "sweep.json").read_text())
    assert content["rows"] == swept.sweep
    assert content["dataset"] == "shapes-test"


def test_fc_clip_is_scored_in_one_pass(convnext_run: Run, shapes: Path) -> None:
    """With no weight on CLIP the ensemble is the in-vocabulary classifier, void included."""
    torch.manual_seed(0)
    sizes = parse_recipe(RECIPE, name="untrained").section("proposer")
    options = {k: v for k, v in sizes.items() if k not in ("name", "backbone", "backbone_width")}
    clip = clip_of(convnext_run, Recipe("test"))
    model = ClipMask2Former(clip=clip, **options)
    about = {"name": "clip_mask2former", "options": options}
    convnext_run.save_artifact("proposals", "teacher", model.state_dict(), about)
    sections = {
        "proposer": {"name": "clip_mask2former", **options},
        "mask_encoder": {"name": "mask_pooling"},
        "evaluate": {**QUICK, "grounding": True},
    }
    sections["vocabulary"] = {"templates": "vild"}
    alone = settings_of(
        convnext_run,
        shapes,
        **sections,
        classification={"classifier": "in_vocabulary", "background": None, "synonyms": "max"},
    )
    swept = settings_of(
        convnext_run,
        shapes,
        **{**sections, "evaluate": {**sections["evaluate"], "sweep": {"weights": [[0, 0]]}}},
        classification={"ensemble": "geometric", "background": None, "synonyms": "max"},
    )
    expected, found = evaluate(alone), evaluate(swept)
    assert expected.results["panoptic"]["all"]["classes"] > 0
    for row in found.sweep:
        assert row["results"]["panoptic"] == expected.results["panoptic"]
    assert found.results["grounding"]["panoptic"]["all"]["classes"] > 0


def test_the_default_sweep_is_table_8() -> None:
    options = SweepOptions()
    assert len(options.ensembles) * len(set(options.weights)) == 24
    assert (0.4, 0.8) in options.weights


def test_the_command_prints_a_row_a_setting(run: Run, shapes: Path) -> None:
    run.save_recipe(two_classifiers(run, shapes, evaluate={**QUICK, "images": 1}).recipe)
    line = ["evaluate", "--run", str(run.path), "--sweep", "--device", "cpu"]
    printed = CliRunner().invoke(app, line)
    assert printed.exit_code == 0, printed.output
    assert printed.output.count("geometric") == printed.output.count("arithmetic") == 12
    fewer = "evaluate.sweep={ensembles: [geometric], weights: [[0.5, 0.6]]}"
    found = json.loads(CliRunner().invoke(app, [*line, "--json", "--set", fewer]).stdout)
    assert [row["beta"] for row in found["sweep"]] == [0.6]
    assert "panoptic" in found


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"weight": [[0, 1]]}, r"\[evaluate.sweep\] weight: .* did you mean 'weights'"),
        ({"weights": [[0, 1.5]]}, r"\[evaluate.sweep\] weights: 1.5 is not less than"),
        ({"weights": []}, r"\[evaluate.sweep\] weights: name one at least"),
    ],
)
def test_a_wrong_sweep_is_refused(run: Run, shapes: Path, sweep: dict, message: str) -> None:
    settings = two_classifiers(run, shapes, evaluate={**QUICK, "sweep": sweep})
    with pytest.raises(RecipeError, match=message):
        evaluate(settings)


def test_a_task_that_the_annotations_do_not_allow_is_refused(run: Run, shapes: Path) -> None:
    settings = two_classifiers(
        run, shapes, evaluate={**QUICK, "tasks": ["instance"], "sweep": {"tasks": ["semantic"]}}
    )
    settings.recipe.sections["dataset"]["annotations"] = "instances"
    with pytest.raises(RecipeError, match=r"\[evaluate.sweep\] tasks: semantic cannot be scored"):
        evaluate(settings)


def test_one_classifier_has_no_ensemble_to_sweep(run: Run, shapes: Path) -> None:
    settings = settings_of(run, shapes, evaluate={**QUICK, "sweep": {}})
    with pytest.raises(RecipeError, match="these masks have one classifier"):
        evaluate(settings)


def test_a_size_is_the_evaluation_of_clip_alone_at_that_size(
    convnext_run: Run, shapes: Path, calls: Counter
) -> None:
    """The proposals are made once, and every size names the same ones."""
    options = {**QUICK, "mask_accuracy": True}
    pooling = {"name": "mask_pooling"}
    sections = {"mask_encoder": pooling, "evaluate": {**options, "input_sizes": [64, 128]}}
    sized = evaluate(settings_of(convnext_run, shapes, **sections))
    assert calls["Mask2Former"] == 2
    assert [row["input_size"] for row in sized.input_sizes] == [64, 128]
    for row in sized.input_sizes:
        sections = {"mask_encoder": {**pooling, "input_size": row["input_size"]}}
        alone = evaluate(settings_of(convnext_run, shapes, evaluate=options, **sections))
        for metric in ("panoptic", "mask_accuracy"):
            assert row["results"][metric] == alone.results[metric]
    content = json.loads((sized.folder / "input_sizes.json").read_text())
    assert content["rows"] == sized.input_sizes


def test_annotated_masks_are_classified_at_every_size(convnext_run: Run, shapes: Path) -> None:
    options = {**QUICK, "oracle_masks": True, "mask_accuracy": True, "input_sizes": [96]}
    settings = settings_of(
        convnext_run, shapes, mask_encoder={"name": "mask_pooling"}, evaluate=options
    )
    (row,) = evaluate(settings).input_sizes
    assert row["results"]["panoptic"]["all"]["classes"] > 0
    assert row["results"]["mask_accuracy"]["all"] is not None


def test_an_encoder_of_one_size_has_no_sizes(run: Run, shapes: Path) -> None:
    settings = settings_of(run, shapes, evaluate={**QUICK, "input_sizes": [64]})
    with pytest.raises(RecipeError, match=r"\[mask_encoder\] input_size: .* has no such option"):
        evaluate(settings)


def test_crops_are_named_by_a_convnext(convnext_run: Run, shapes: Path) -> None:
    sections = {"mask_encoder": {"name": "mask_pooling"}}
    for side in (None, 32):
        options = {**QUICK, "images": 1, "crop_accuracy": True, "crop_side": side}
        settings = settings_of(convnext_run, shapes, evaluate=options, **sections)
        assert "crop_accuracy" in evaluate(settings).results
