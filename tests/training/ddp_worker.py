"""Trains a line under torchrun and saves its weights; run by test_distributed."""

import sys
from pathlib import Path

import torch
from torch import nn

from ovseg_cli.run import Run, save_tensors
from ovseg_cli.training import distributed
from ovseg_cli.training.loop import LoopOptions, fit
from ovseg_cli.training.optimizer import adamw, schedule

GLOBAL_BATCH = 8


def batch_at(step):
    whole = torch.randn(GLOBAL_BATCH, 4, generator=torch.Generator().manual_seed(step))
    weights = torch.arange(1.0, GLOBAL_BATCH + 1)
    rank, size = distributed.rank(), distributed.world_size()
    return whole[rank::size], weights[rank::size]


def losses_of(module, batch, step):
    inputs, weights = batch
    errors = (module(inputs) - inputs.sum(1, keepdim=True)).square().squeeze(1)
    scale = distributed.world_size() / distributed.global_sum(weights.sum())
    return {"weighted": (weights * errors).sum() * scale}


def main(folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    distributed.start(device)
    module = nn.Linear(4, 1)
    fit(
        module,
        batch_at=batch_at,
        losses_of=losses_of,
        optimizer=adamw(module, lr=0.05, weight_decay=0.01),
        schedule=schedule(steps=10),
        options=LoopOptions(steps=10, gradient_clip=1.0),
        run=Run(folder),
        stage="line",
        fingerprint="f",
        device=device,
    )
    if distributed.is_main():
        save_tensors(folder / "line.safetensors", dict(module.state_dict()))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
