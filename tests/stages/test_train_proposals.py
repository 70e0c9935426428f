"""Training of the proposer as a stage, by one process and by two."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.proposal_examples import ProposalExamples
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.train_proposals import built_proposer, train_proposals
from ovseg_cli.training.signals import Interrupted

PROPOSER = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 32,
    "decoder_layers": 1,
    "feedforward_dim": 32,
}
MASK_RCNN = {
    "name": "mask_rcnn",
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "trained_stages": 5,
    "channels": 16,
    "anchor_sizes": [12, 24, 48, 96, 128],
    "candidates": 50,
    "regions": 50,
    "region_samples": 32,
    "box_head_dim": 32,
    "box_samples": 32,
    "mask_layers": 1,
}
PROPOSERS = pytest.mark.parametrize(
    "proposer", [{"name": "mask2former", **PROPOSER}, MASK_RCNN], ids=["mask2former", "mask_rcnn"]
)
TRAINING = {
    "steps": 2,
    "batch_size": 2,
    "augmentation": "squash",
    "image_size": 64,
    "backbone_weights": "none",
    "points": 32,
    "cached_images": 4,
}
LOSS_NAMES = {
    "mask2former": {"class", "mask", "dice"},
    "mask_rcnn": {"rpn_objectness", "rpn_box", "box_class", "box_reg", "mask"},
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


def settings(
    folder: Path, shapes: Path, proposer: dict[str, Any] | None = None, **training: Any
) -> Settings:
    sections = {
        "dataset": {"root": str(shapes)},
        "proposer": proposer or {"name": "mask2former", **PROPOSER},
        "train_proposals": {**TRAINING, **training},
    }
    return Settings(Run(folder), Recipe("a test", 0, sections))


def examples(shapes: Path, **training: Any) -> ProposalExamples:
    options = TrainProposalsOptions(**{**TRAINING, **training})
    return ProposalExamples(CocoDataset(shapes, "train"), options, seed=0)


@PROPOSERS
def test_the_artifact_rebuilds_the_trained_proposer(tmp_path, shapes, proposer):
    outcome = train_proposals(settings(tmp_path, shapes, proposer))
    assert outcome.artifact == "proposals/teacher"
    tensors, model = Run(tmp_path).load_artifact("proposals", "teacher")
    name, trained = built_proposer(model["options"])
    classes = CocoDataset(shapes, "train", part="seen").vocabulary
    assert model["vocabulary"]["names"] == list(classes.names)
    assert [tuple(words) for words in model["vocabulary"]["synonyms"]] == [*classes.synonyms]
    assert model["vocabulary"]["is_thing"] == list(classes.is_thing)
    trained.load_state_dict(tensors)
    assert name == model["name"] == proposer["name"]
    torch.manual_seed(0)
    _, untrained = built_proposer(model["options"])
    assert not torch.equal(trained.backbone.conv1.weight, untrained.backbone.conv1.weight)
    assert outcome.results["losses"].keys() == LOSS_NAMES[name]


def test_a_finished_stage_is_left_alone(tmp_path, shapes):
    train_proposals(settings(tmp_path, shapes))
    assert train_proposals(settings(tmp_path, shapes)).already_done


def test_proposals_of_another_name_stand_beside_the_first(tmp_path, shapes):
    train_proposals(settings(tmp_path, shapes))
    other = settings(tmp_path, shapes, name="longer", steps=3)
    assert train_proposals(other).artifact == "proposals/longer"
    assert train_proposals(settings(tmp_path, shapes)).already_done
    assert train_proposals(other).already_done
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {"train-proposals.jsonl", "train-proposals-longer.jsonl"}


def test_other_seen_classes_are_learned_anew(tmp_path, shapes):
    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    train_proposals(settings(tmp_path / "run", copy))
    path = copy / "annotations" / "vocabulary.json"
    content = json.loads(path.read_text())
    content["seen"][content["seen"].index(True)] = False
    path.write_text(json.dumps(content))
    assert not train_proposals(settings(tmp_path / "run", copy)).already_done


@PROPOSERS
def test_the_same_seed_gives_the_same_weights(tmp_path, shapes, proposer):
    for name in ("first", "second"):
        train_proposals(settings(tmp_path / name, shapes, proposer))
    first, second = (weights(tmp_path / name) for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@PROPOSERS
def test_two_processes_reach_the_weights_of_one(tmp_path, shapes, proposer):
    train_proposals(settings(tmp_path / "one", shapes, proposer))
    of_two = settings(tmp_path / "two", shapes, proposer)
    of_two.run.save_recipe(of_two.recipe)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "train-proposals", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(tmp_path / "two")}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=300
    )
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-6), name


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Run(folder).load_artifact("proposals", "teacher")[0]


@PROPOSERS
def test_a_training_that_was_cut_off_ends_at_the_same_weights(
    tmp_path, shapes, proposer, monkeypatch
):
    train_proposals(settings(tmp_path / "whole", shapes, proposer))
    batch_at = ProposalExamples.batch_at

    def cut_off(self: ProposalExamples, step: int) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalExamples, "batch_at", cut_off)
        with pytest.raises(Interrupted):
            train_proposals(settings(tmp_path / "parts", shapes, proposer))
    train_proposals(settings(tmp_path / "parts", shapes, proposer))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("augmentation", ["squash", "jitter"])
def test_a_steps_batch_depends_on_the_step_alone(shapes, augmentation):
    one = examples(shapes, augmentation=augmentation)
    other = examples(shapes, augmentation=augmentation, cached_images=0)
    for step in range(3):
        other.batch_at(step)
    first, second = one.batch_at(2), other.batch_at(2)
    assert torch.equal(first.images, second.images)
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(first.masks, second.masks, strict=True)
    )


def test_an_epoch_shows_every_image_once(shapes):
    batches = [examples(shapes).batch_at(step) for step in range(2)]
    ids = [image_id for batch in batches for image_id in batch.image_ids]
    assert sorted(ids) == sorted(record.image_id for record in CocoDataset(shapes, "train").records)


def test_crowds_are_left_out(shapes):
    source = examples(shapes)
    sample = source.images.dataset[source.images.indices[0]]
    crowded = replace(sample, is_crowd=torch.arange(len(sample.labels)) == 0)
    source.images._sample = lambda _: crowded
    assert len(source.batch_at(0).masks[0]) == len(sample.masks) - 1


def test_a_split_without_masks_is_a_clear_error(shapes):
    dataset = CocoDataset(shapes, "train")
    dataset.records = tuple(replace(record, segments=()) for record in dataset.records)
    with pytest.raises(InputError, match="no annotated masks of seen classes to learn"):
        ProposalExamples(dataset, TrainProposalsOptions(), seed=0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("image_size", 100, "image_size: 100 is not a multiple of 32"),
        ("stepps", 3, "stepps: .*no such option; did you mean 'steps'"),
        ("augmentation", "mosaic", "augmentation: expected one of jitter, squash"),
        ("name", "a/b", "name: 'a/b' cannot be part of a file's name"),
        ("batch_size", 0, "batch_size: 0 is not greater than 0"),
        ("milestone", [0.5, 1.5], "milestone: 1.5 is not less than or equal to 1"),
        ("milestone", "late", r"milestone: expected float \| a list of float"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, shapes, option, value, message):
    with pytest.raises(RecipeError, match=message):
        train_proposals(settings(tmp_path, shapes, **{option: value}))
    assert not (tmp_path / "proposals").exists()
