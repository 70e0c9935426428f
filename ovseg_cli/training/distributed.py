"""The little that training needs to know of other processes; a single process is the plain case."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: torch.device) -> bool:
    """Joins the process group that `torchrun` describes; False where there is none to join."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return False
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return True


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
