"""The machine: cores, memory, GPUs, room on the disk."""

import os
import platform
import shutil
from pathlib import Path

from .environment import import_problem
from .finding import Finding, problem, warning

LITTLE_SPACE = 2 * 1024**3
LITTLE_MEMORY = 2 * 1024**3
MEMORY_TABLE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")


def cpu() -> Finding:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Finding("device cpu", f"{cores} cores, {platform.machine()}")


def memory() -> Finding:
    """The machine's memory, and how much of it is free where the system says so."""
    total, free = _memory()
    if total is None:
        return Finding("memory", "not known on this system")
    if free is None:
        return Finding("memory", _gigabytes(total))
    found = f"{_gigabytes(free)} of {_gigabytes(total)} free"
    if free < LITTLE_MEMORY:
        return warning("memory", found, "close other programs; large CLIPs need some gigabytes")
    return Finding("memory", found)


def cuda() -> Finding:
    """NVIDIA's GPUs and their free memory, or why PyTorch uses none."""
    name, driver = "device cuda", shutil.which("nvidia-smi") is not None
    if import_problem("torch") is not None:
        return Finding(name, "not known without torch")
    import torch

    if torch.version.cuda is None:
        found = "this torch is built without CUDA"
        mend = "there is an NVIDIA driver here: install a torch with CUDA, see pytorch.org"
        return warning(name, found, mend) if driver else Finding(name, found)
    if not torch.cuda.is_available():
        found = "no GPU that torch can use"
        mend = f"update the NVIDIA driver, or install a torch for it (this: {torch.version.cuda})"
        return warning(name, found, mend) if driver else Finding(name, found)
    try:
        gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return problem(name, reason, "another process may hold all of it; see nvidia-smi")
    return Finding(name, ", ".join(gpus))


def mps() -> Finding:
    """Apple's GPU."""
    if import_problem("torch") is not None:
        return Finding("device mps", "not known without torch")
    import torch

    return Finding("device mps", "available" if torch.backends.mps.is_available() else "none here")


def space(folder: Path) -> Finding:
    """Room where results go.

    Args:
        folder: it may be missing.
    """
    name = "this folder"
    if not folder.is_dir():
        return problem(name, f"{folder}: no such folder", "make it, or change to another one")
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return problem(name, "cannot be written", "change to a folder of your own")
    found = f"{_gigabytes(free)} free"
    if free < LITTLE_SPACE:
        return warning(name, found, "free some space, checkpoints and datasets need it")
    return Finding(name, found)


def _gpu(index: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {_gigabytes(free)} of {_gigabytes(total)} free"


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all, and bytes that a new program can have; None for what cannot be told."""
    if MEMORY_TABLE.is_file():
        lines = MEMORY_TABLE.read_text(encoding="utf-8").splitlines()
        table = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
        values = [table.get(name) for name in ("MemTotal", "MemAvailable")]
        total, free = (1024 * int(value) if value else None for value in values)
        return _in_container(total, free)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None, None


def _in_container(total: int | None, free: int | None) -> tuple[int | None, int | None]:
    """The same, or less where a container has a limit of its own."""
    try:
        texts = [(CONTAINER / f"memory.{name}").read_text() for name in ("max", "current", "stat")]
        limit, used = int(texts[0]), int(texts[1])
        kept_files = dict(line.split() for line in texts[2].splitlines())["inactive_file"]
        used -= int(kept_files)  # given up as soon as a program asks for memory
    except (OSError, ValueError, KeyError):  # no container, or "max"
        return total, free
    if total is None or free is None or limit >= total:
        return total, free
    return limit, min(free, max(limit - used, 0))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB"
