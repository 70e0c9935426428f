"""MAFT through the command line, and its tower in MasQCLIP, small enough for seconds."""

import json

import pytest
from test_chain import SMALL, ovseg

from ovseg_cli.run import load_tensors

MAFT = ["--recipe", "tiny/maft", *SMALL]
PLUGGED = ["--recipe", "tiny/maft_in_masqclip", *SMALL]
AGAIN = ["tune_clip.start=maft", "tune_clip.pseudo_labels=true", "artifacts.tuned=maft-again"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain") / "run"
    ovseg("datasets", "make", "shapes", folder / "shapes", *MAFT, "--workers", 1)
    ovseg("train-clip", "--run", folder, *MAFT)
    ovseg("train-proposals", "--run", folder, *MAFT)
    ovseg("tune-clip", "--mode", "maft", "--run", folder, *MAFT)
    return folder


def scores(run, name, *recipe):
    ovseg("evaluate", "--run", run, *recipe, "--name", name)
    (path,) = run.glob(f"evaluation/*/{name}/metrics.json")
    return json.loads(path.read_text())


def test_what_was_tuned_is_evaluated(run):
    assert "clip/maft" in scores(run, "maft", *MAFT)["artifacts"]


def test_self_training_goes_on_with_what_the_tower_finds_of_unseen_classes(run):
    changes = [word for change in AGAIN for word in ("--set", change)]
    ovseg("tune-clip", "--run", run, *MAFT, *changes, "--set", "tune_clip.pseudo_score=0")
    first, again = (
        load_tensors(run / f"clip/{name}.safetensors") for name in ("maft", "maft-again")
    )
    assert not first["visual.ln_post.weight"].equal(again["visual.ln_post.weight"])
    record = json.loads((run / "manifest.json").read_text())["stages"][-1]
    assert record["artifact"] == "clip/maft-again"
    assert "clip/maft" in record["inputs"]


def test_masqclip_is_tuned_and_evaluated_on_the_tower(run):
    ovseg("tune-clip", "--run", run, *PLUGGED)
    model = json.loads((run / "clip/masq-on-maft.json").read_text())
    assert model["base"] == "maft"
    found = scores(run, "plugged", *PLUGGED)["artifacts"]
    assert {"clip/base", "clip/maft", "clip/masq-on-maft"} <= set(found)
