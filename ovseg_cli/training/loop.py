"""The training loop: steps, clipping, log, checkpoint and resume; it knows no segmentation."""

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..device import Precision, autocast
from ..progress import progress
from ..run import Run
from ..storage import storage_errors
from . import distributed
from .checkpoint import Checkpoint
from .signals import Interrupted, StopRequest, stop_requests

LossesOf = Callable[[nn.Module, Any, int], dict[str, Tensor]]


@dataclass(frozen=True)
class LoopOptions:
    """How long and how carefully to train.

    Attributes:
        steps: optimizer steps, skipped ones included.
        gradient_clip: largest norm of the whole gradient; 0 is no clipping.
        precision: of the forward pass; weights stay fp32.
        log_every: steps between lines of the log.
        checkpoint_seconds: wall-clock time between checkpoints.
        max_skipped: how many non-finite steps in a row are skipped before the run stops.
    """

    steps: int
    gradient_clip: float = 0.0
    precision: Precision = "fp32"
    log_every: int = 20
    checkpoint_seconds: float = 60.0
    max_skipped: int = 5


@dataclass
class FitResult:
    """How training went.

    Attributes:
        losses: the mean of each named loss over the last tenth of the steps.
        seconds: wall-clock time, earlier parts of a resumed training included.
        skipped: steps that were skipped because a loss or gradient was not finite.
    """

    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0


def fit(
    module: nn.Module,
    *,
    batch_at: Callable[[int], Any],
    losses_of: LossesOf,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    options: LoopOptions,
    run: Run,
    stage: str,
    fingerprint: str,
    device: torch.device,
) -> FitResult:
    """Trains a module in place, from the stage's checkpoint if there is one of the same settings.

    Args:
        module: holds the trainable parameters; called by `losses_of`.
        batch_at: the batch of a step, a pure function of step, seed, rank and world size, which
            is what makes a resumed training equal to an uninterrupted one.
        losses_of: named losses of a batch, weighted already; their sum is minimised. Under
            several processes each is scaled so that the mean over processes is the global loss.
        optimizer: over the module's trainable parameters.
        schedule: the factor on the learning rate at a step.
        options: how long and how carefully.
        run: where checkpoint and log go.
        stage: their name.
        fingerprint: of the settings; a checkpoint of others is not resumed from.
        device: where the module is.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint is saved.
        TrainingError: the loss stayed non-finite.
    """
    wrapped = DistributedDataParallel(module) if distributed.world_size() > 1 else module
    rates = [group["lr"] for group in optimizer.param_groups]
    trainer = _Trainer(wrapped, losses_of, optimizer, schedule, options, device, rates)
    checkpoint = Checkpoint(run, stage, fingerprint)
    state = checkpoint.load(module, optimizer, trainer.scaler)
    log = _Log(run, stage, options, state.step)
    with stop_requests() as request, ThreadPoolExecutor(1) as loader, log:
        upcoming = loader.submit(batch_at, state.step)
        start, saved = time.monotonic() - state.seconds, time.monotonic()
        while state.step < options.steps:
            batch = upcoming.result()
            if state.step + 1 < options.steps:
                upcoming = loader.submit(batch_at, state.step + 1)
            losses = trainer.step(batch, state.step)
            state.note(losses, steps=options.steps, max_skipped=options.max_skipped)
            state.seconds = time.monotonic() - start
            log.write(state.step, losses, trainer.rate(state.step))
            stop = _agreed_stop(request, device)
            if stop or time.monotonic() - saved > options.checkpoint_seconds:
                checkpoint.save(state, module, optimizer, trainer.scaler)
                saved = time.monotonic()
            if stop:
                raise Interrupted(
                    stop,
                    f"{stage}: stopped after step {state.step} of {options.steps}; "
                    "the same command goes on from there (without --restart)",
                )
    distributed.barrier()
    checkpoint.save(state, module, optimizer, trainer.scaler)
    return FitResult(state.mean_losses(), state.seconds, state.skipped)


@dataclass
class _Trainer:
    module: nn.Module
    losses_of: LossesOf
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    options: LoopOptions
    device: torch.device
    base_rates: list[float]

    def __post_init__(self) -> None:
        scales = self.options.precision == "fp16" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]

    def rate(self, step: int) -> float:
        return self.base_rates[0] * self.schedule(step)

    def step(self, batch: Any, step: int) -> dict[str, float] | None:
        """Takes a step; None if it was skipped because something was not finite."""
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * self.schedule(step)
        self.module.train()
        with autocast(self.device, self.options.precision):
            losses = self.losses_of(self.module, batch, step)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not _finite_everywhere(total):
            return None
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        largest = self.options.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, largest)
        finite = _finite_everywhere(norm)
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
        scale = self.scaler.get_scale()  # 1 without scaling
        self.scaler.update()
        if not finite and scale <= 1:  # else it was the scale's overflow, and the scale is halved
            return None
        return {key: float(loss.detach()) for key, loss in losses.items()}


def _finite_everywhere(value: Tensor) -> bool:
    bad = (~torch.isfinite(value.detach())).float()
    return float(distributed.global_sum(bad)) == 0


def _agreed_stop(request: StopRequest, device: torch.device) -> int:
    if distributed.world_size() == 1:
        return request.signal_number
    number = torch.tensor([float(request.signal_number)], device=device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number)


class _Log:
    """The progress bar on stderr and the lines of logs/<stage>.jsonl, in the main process."""

    def __init__(self, run: Run, stage: str, options: LoopOptions, step: int) -> None:
        self.path = run.path / "logs" / f"{stage}.jsonl"
        self.options = options
        self.main = distributed.is_main()
        self.bar = progress(
            title=stage, unit="step", total=options.steps, done=step, shown=self.main
        )

    def __enter__(self) -> "_Log":
        if self.main:
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        if self.main:
            self.file.close()

    def write(self, step: int, losses: dict[str, float] | None, rate: float) -> None:
        self.bar.update(1)
        if not self.main or (step % self.options.log_every and losses is not None):
            return
        shown = losses if losses is not None else {"skipped": 1.0}
        self.bar.set_postfix(loss=f"{sum(shown.values()):.3f}", refresh=False)
        with storage_errors(self.path):
            self.file.write(json.dumps({"step": step, "lr": rate, **shown}) + "\n")
            self.file.flush()
