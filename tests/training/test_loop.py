import os
import signal
import threading

import pytest
import torch
from torch import nn

from ovseg_cli.errors import RunError, TrainingError
from ovseg_cli.run import Run
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import adamw, schedule
from ovseg_cli.training.signals import Interrupted

STEPS = 12


def batch_at(step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def losses_of(module, batch, step):
    return {"square": (module(batch) - batch.sum(1, keepdim=True)).square().mean()}


def train(folder, *, batch_at=batch_at, losses_of=losses_of, fingerprint="a", **options):
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    result = fit(
        module,
        batch_at=batch_at,
        losses_of=losses_of,
        optimizer=adamw(module, lr=0.1, weight_decay=0.01),
        schedule=schedule(steps=STEPS, warmup=2, decay="cosine"),
        options=LoopOptions(steps=STEPS, **options),
        run=Run(folder),
        stage="train",
        fingerprint=fingerprint,
        device=torch.device("cpu"),
    )
    return module, result


def send(number):
    os.kill(os.getpid(), number)
    threading.Event().wait(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_resumes_to_the_same_weights(tmp_path, number):
    whole, _ = train(tmp_path / "whole")
    stopped = []

    def stop_once(module, batch, step):
        if step == 5 and not stopped:
            stopped.append(step)
            send(number)
        return losses_of(module, batch, step)

    with pytest.raises(Interrupted, match="step 6 of 12") as caught:
        train(tmp_path / "parts", losses_of=stop_once)
    assert caught.value.signal_number == number
    resumed, _ = train(tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_a_non_finite_loss_is_skipped_and_counted(tmp_path):
    def spiked(module, batch, step):
        loss = losses_of(module, batch, step)["square"]
        return {"square": loss * (float("nan") if step in (3, 4, 8) else 1.0)}

    module, result = train(tmp_path, losses_of=spiked)
    assert result.skipped == 3
    assert torch.isfinite(module.weight).all()


def test_a_loss_that_stays_non_finite_stops_the_run(tmp_path):
    def broken(module, batch, step):
        return {"square": losses_of(module, batch, step)["square"] * float("inf")}

    with pytest.raises(TrainingError, match="not finite at 6 steps in a row"):
        train(tmp_path, losses_of=broken)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(RunError, match="--restart"):
        train(tmp_path, fingerprint="b")


def test_frozen_parameters_stay_and_are_not_saved(tmp_path):
    from ovseg_cli.training.checkpoint import _trained

    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    assert set(_trained(module)) == {"1.weight", "1.bias"}


def test_norms_and_embeddings_get_no_weight_decay():
    module = nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    groups = adamw(module, lr=1.0, weight_decay=0.5, lr_factors={"2.": 0.1}).param_groups
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(1.0, 0.0), (0.1, 0.5)}


def test_the_step_schedule_drops_to_a_tenth_and_the_cosine_ends_at_zero():
    step = schedule(steps=100, decay="step", milestone=0.9)
    assert (step(89), step(90)) == (1.0, pytest.approx(0.1))
    twice = schedule(steps=368_750, decay="step", milestone=(0.888889, 0.96296))
    expected = {327_777: 1.0, 327_778: 0.1, 355_091: 0.1, 355_092: 0.01}
    assert {at: twice(at) for at in expected} == pytest.approx(expected)
    cosine = schedule(steps=100, warmup=10, decay="cosine")
    assert cosine(0) == pytest.approx(0.1)
    assert cosine(10) == pytest.approx(1.0)
    assert cosine(100) == pytest.approx(0.0)


def test_poly_takes_the_rate_down_with_the_steps_that_are_left():
    factor = schedule(steps=10, warmup=2, decay="poly")
    assert [factor(0), factor(1), factor(5)] == [0.5, 0.9**0.9, 0.5**0.9]
    assert factor(10) == 0
