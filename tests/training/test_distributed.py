import os
import subprocess
import sys
from pathlib import Path

import torch

from ovseg_cli.run import load_tensors

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
