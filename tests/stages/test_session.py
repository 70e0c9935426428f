"""What is done, what is done again, and what goes on."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from ovseg_cli.errors import CheckpointError
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.session import Settings, annotation_hashes, run_stage
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import adamw, schedule
from ovseg_cli.training.signals import Interrupted

STEPS = 4


@pytest.fixture
def settings(tmp_path):
    return Settings(Run(tmp_path), Recipe("r", sections={"train_clip": {"lr": 1}}))


def trained(settings, steps_seen, *, stop_at=None):
    def losses_of(module, batch, step):
        steps_seen.append(step)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"square": module(batch).square().mean()}

    def work(fingerprint):
        module = nn.Linear(2, 1)
        result = fit(
            module,
            batch_at=lambda step: torch.ones(1, 2),
            losses_of=losses_of,
            optimizer=adamw(module, lr=0.1, weight_decay=0.0),
            schedule=schedule(steps=STEPS),
            options=LoopOptions(STEPS),
            run=settings.run,
            stage="train-clip",
            fingerprint=fingerprint,
            device=settings.device,
        )
        settings.run.save_artifact("clip", "base", module.state_dict(), {})
        return {"losses": result.losses}

    return run_stage(settings, "train-clip", work, artifact="clip/base", sections=("train_clip",))


def test_a_restart_that_was_stopped_goes_on_though_an_older_result_stands(settings):
    assert not trained(settings, []).already_done
    assert trained(settings, []).already_done
    with pytest.raises(Interrupted, match=r"goes on from there \(without --restart\)"):
        trained(replace(settings, restart=True), [], stop_at=1)
    steps = []
    assert not trained(settings, steps).already_done
    assert steps == [2, 3]
    assert trained(settings, []).already_done


def test_a_checkpoint_of_other_settings_does_not_undo_what_is_done(settings):
    trained(settings, [])
    other = Settings(settings.run, Recipe("r", sections={"train_clip": {"lr": 2}}))
    with pytest.raises(Interrupted):
        trained(other, [], stop_at=1)
    assert trained(settings, []).already_done


def test_a_damaged_checkpoint_is_named(settings):
    path = settings.run.path / "checkpoints" / "train-clip.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="--restart"):
        trained(settings, [])
    assert not trained(replace(settings, restart=True), []).already_done


def test_changed_annotations_change_the_fingerprint_of_what_is_learned_from_them(tmp_path):
    file = tmp_path / "shapes" / "annotations" / "panoptic_train.json"
    file.parent.mkdir(parents=True)
    settings = Settings(Run(tmp_path), Recipe("r", sections={"dataset": {"root": "shapes"}}))
    hashes = []
    for content in ("{}", "[]"):
        file.write_text(content)
        hashes.append(annotation_hashes(settings, file.name, "missing.json"))
    assert hashes[0].keys() == {"annotations/panoptic_train.json"}
    assert hashes[0] != hashes[1]
