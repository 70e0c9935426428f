"""The whole chain through the command line, small enough for seconds: nothing is learned here."""

import json

import pytest
from typer.testing import CliRunner

from ovseg_cli.cli import app
from ovseg_cli.run import load_tensors

SMALLER = [
    "shapes.train=12",
    "shapes.val=4",
    "shapes.test=4",
    "shapes.pairs_easy=16",
    "shapes.pairs_crop=16",
    "shapes.pairs_window=16",
    "train_clip.steps=4",
    "train_clip.phases=[{split: pairs_easy, size: 32, batch_size: 8}]",
    "train_proposals.steps=2",
    "train_proposals.batch_size=2",
    "train_proposals.points=64",
    "distill.steps=1",
    "distill.batch_size=2",
    "distill.score_threshold=0",
    "distill.points=64",
    "distill.statistics_images=1",
    "tune_clip.steps=2",
    "tune_clip.batch_size=2",
]
SMALL = [word for change in SMALLER for word in ("--set", change)]
RECIPE = ["--recipe", "tiny/masqclip", *SMALL]
STUDENTS = ("proposals/student-1", "proposals/student-2")
MASKCLIP = ["--recipe", "tiny/maskclip", *SMALL, "--set", "tune_clip.points=64"]
MAFT = ["--recipe", "tiny/maft", *SMALL]
ON_MAFT = ["--recipe", "tiny/maft_in_masqclip", *SMALL]
OVSEG = ["--recipe", "tiny/ovseg", *SMALL, "--set", "train_proposals.warmup=1"]
SELF_TRAINING = [
    "artifacts.tuned=maft-again",
    "tune_clip.start=maft",
    "tune_clip.pseudo_labels=true",
    "tune_clip.pseudo_score=0",
]


def ovseg(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain") / "run"
    ovseg("datasets", "make", "shapes", folder / "shapes", *RECIPE, "--workers", 1)
    ovseg("train-clip", "--run", folder, *RECIPE)
    ovseg("train-proposals", "--run", folder, *RECIPE)
    ovseg("distill", "--run", folder, *RECIPE)
    ovseg("tune-clip", "--mode", "masq", "--run", folder, *RECIPE)
    return folder


def test_each_stage_leaves_its_artifact_and_its_record(run):
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    made = [(entry["stage"], entry["artifact"]) for entry in stages]
    assert made[:5] == [
        ("train-clip", "clip/base"),
        ("train-proposals", "proposals/teacher"),
        ("distill", "proposals/student-1"),
        ("distill", "proposals/student-2"),
        ("tune-clip", "clip/masq"),
    ]
    for _, artifact in made[:5]:
        assert (run / f"{artifact}.safetensors").is_file()
        assert (run / f"{artifact}.json").is_file()
    assert not list((run / "checkpoints").iterdir())
    assert not (run / ".lock").exists()


def test_a_finished_stage_is_left_alone(run):
    before = (run / "clip/base.safetensors").stat().st_mtime_ns
    ovseg("train-clip", "--run", run, *RECIPE)
    assert (run / "clip/base.safetensors").stat().st_mtime_ns == before


def test_evaluate_writes_every_metric(run):
    result = ovseg("evaluate", "--run", run, *RECIPE, "--json", "--name", "scores")
    results = json.loads(result.stdout)
    metrics = json.loads((run / "evaluation/shapes-test/scores/metrics.json").read_text())
    assert metrics["results"] == results
    for group in ("base", "novel", "all"):
        assert 0 <= results["panoptic"][group]["pq"] <= 1
        assert 0 <= results["proposal_recall"][group]["recall50"] <= 1
    rows = (run / "evaluation/shapes-test/scores/per_class.csv").read_text().splitlines()
    assert len(rows) == 1 + 28


def test_maskclip_goes_on_from_the_same_clip_and_proposals(run):
    ovseg("train-proposals", "--run", run, *MASKCLIP)
    tuned = json.loads(ovseg("tune-clip", "--run", run, *MASKCLIP, "--json").stdout)
    assert tuned["parameters"] > 0
    scores = ovseg("evaluate", "--run", run, *MASKCLIP, "--json", "--name", "maskclip").stdout
    assert 0 <= json.loads(scores)["panoptic"]["all"]["sq"] <= 1
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert [entry["stage"] for entry in stages].count("train-proposals") == 1
    assert "clip/rma" in [entry["artifact"] for entry in stages]
    ovseg("evaluate", "--run", run, *RECIPE, "--name", "again")  # leaves MasQCLIP's recipe


def test_predict_uses_the_run(run, tmp_path):
    image = next((run / "shapes/test").iterdir())
    out = tmp_path / "out"
    ovseg("predict", image, "--labels", "beer,wine/red wine", "--run", run, "--output", out)
    assert list(out.rglob("*.png"))


def test_a_packed_run_predicts_and_scores_as_its_card_says(run, tmp_path):
    from ovseg_cli.run import Run
    from ovseg_cli.stages.pack import check_scores
    from ovseg_cli.stages.session import Settings

    tuned = ovseg("evaluate", "--run", run, *RECIPE, "--json")
    frozen = ("--set", "mask_encoder.variant=freeze", "--name", "frozen")
    ovseg("evaluate", "--run", run, *RECIPE, *frozen)
    ovseg("pack", tmp_path / "packed", "--run", run, *RECIPE)
    card = json.loads((tmp_path / "packed/card.json").read_text())
    assert card["evaluation"]["results"] == json.loads(tuned.stdout)
    made = [entry["artifact"] for entry in card["stages"]]
    assert made == ["clip/base", "proposals/teacher", *STUDENTS, "clip/masq"]
    packed = Run(tmp_path / "packed")
    scores = check_scores(Settings(packed, packed.recipe()), run / "shapes")
    assert scores == pytest.approx(card["check"]["scores"], nan_ok=True)
    image = next((run / "shapes/test").iterdir())
    out = tmp_path / "out"
    ovseg(
        "predict", image, "--labels", "star,ball", "--model", tmp_path / "packed", "--output", out
    )
    assert list(out.rglob("*.png"))


@pytest.fixture(scope="module")
def maft_run(run):
    ovseg("tune-clip", "--mode", "maft", "--run", run, *MAFT)
    return run


def test_maft_goes_on_from_the_same_clip_and_proposals(maft_run):
    ovseg("evaluate", "--run", maft_run, *MAFT, "--name", "maft")
    metrics = json.loads((maft_run / "evaluation/shapes-test/maft/metrics.json").read_text())
    assert set(metrics["artifacts"]) == {"proposals/student-2", "clip/base", "clip/maft"}
    stages = json.loads((maft_run / "manifest.json").read_text())["stages"]
    assert [entry["stage"] for entry in stages].count("train-clip") == 1


def test_self_training_goes_on_with_what_the_tower_finds_of_unseen_classes(maft_run):
    changes = [word for change in SELF_TRAINING for word in ("--set", change)]
    ovseg("tune-clip", "--run", maft_run, *MAFT, *changes)
    first, again = (
        load_tensors(maft_run / f"clip/{name}.safetensors") for name in ("maft", "maft-again")
    )
    assert not first["visual.ln_post.weight"].equal(again["visual.ln_post.weight"])
    record = json.loads((maft_run / "manifest.json").read_text())["stages"][-1]
    assert record["artifact"] == "clip/maft-again"
    assert "clip/maft" in record["inputs"]


def test_masqclip_is_tuned_and_evaluated_on_mafts_tower(maft_run):
    ovseg("tune-clip", "--run", maft_run, *ON_MAFT)
    model = json.loads((maft_run / "clip/masq-on-maft.json").read_text())
    assert model["base"] == "maft"
    ovseg("evaluate", "--run", maft_run, *ON_MAFT, "--name", "on-maft")
    metrics = json.loads((maft_run / "evaluation/shapes-test/on-maft/metrics.json").read_text())
    assert {"clip/base", "clip/maft", "clip/masq-on-maft"} <= set(metrics["artifacts"])


def test_ovseg_goes_on_from_the_same_clip_with_pairs_of_its_own(run, tmp_path):
    ovseg("train-proposals", "--run", run, *OVSEG)
    ovseg("mine-captions", "--run", run, *OVSEG)
    ovseg("tune-clip", "--mode", "finetune", "--run", run, *OVSEG)
    ovseg("tune-clip", "--mode", "mpt", "--run", run, *OVSEG)
    ovseg("evaluate", "--run", run, *OVSEG, "--name", "ovseg")
    metrics = json.loads((run / "evaluation/shapes-test/ovseg/metrics.json").read_text())
    assert set(metrics["artifacts"]) == {"proposals/maskformer", "clip/base", "clip/ovseg-mpt"}
    tuned, first = (
        load_tensors(run / f"clip/ovseg-{mode}.safetensors") for mode in ("mpt", "finetune")
    )
    assert tuned["visual.proj"].equal(first["visual.proj"])
    image, out = next((run / "shapes/test").iterdir()), tmp_path / "out"
    ovseg("predict", image, "--labels", "star,grass:stuff", "--run", run, "--output", out)
    assert list(out.rglob("*.png"))
    ovseg("evaluate", "--run", run, *RECIPE, "--name", "again")  # not the MaskFormer
