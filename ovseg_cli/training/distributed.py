"""The little that training needs to know of other processes; a single process is the plain case."""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UsageError


def start(device: torch.device) -> bool:
    """Joins the process group that `torchrun` describes; False where there is none to join.

    Each process of a machine takes a GPU of its own.

    Raises:
        UsageError: a single GPU was asked for by number, or there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return False
    if device.type == "cuda":
        torch.cuda.set_device(_own_gpu(device))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return True


def _own_gpu(device: torch.device) -> int:
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.index is not None:
        raise UsageError(f"--device {device}: several processes cannot share it; use cuda")
    if number >= gpus:
        raise UsageError(
            f"--device cuda: process {number + 1} of this machine finds {gpus} GPUs; start as many "
            "processes as there are GPUs, or use --device cpu"
        )
    return number


def stop() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 where there is one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """True in the one process that writes files and shows progress."""
    return rank() == 0


def global_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()
