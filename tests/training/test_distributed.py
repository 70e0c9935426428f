import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ovseg_cli.errors import UsageError
from ovseg_cli.run import load_tensors
from ovseg_cli.training import distributed

WORKER = Path(__file__).with_name("ddp_worker.py")


def trained_by(processes, folder):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={processes}", str(WORKER), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    return load_tensors(folder / "line.safetensors")


def test_two_processes_reach_the_weights_of_one_with_the_same_global_batch(tmp_path):
    one = trained_by(1, tmp_path / "one")
    two = trained_by(2, tmp_path / "two")
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-6)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "process 3 of this machine finds 2 GPUs"), ("cuda:1", "cannot share it")],
)
def test_processes_that_would_share_a_gpu_are_refused(monkeypatch, device, message):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=message):
        distributed.start(torch.device(device))


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", taken.append)
    assert distributed.start(torch.device("cuda"))
    assert taken == [1, "nccl"]
