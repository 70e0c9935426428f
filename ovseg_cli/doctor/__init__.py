"""What is installed, what is missing, and the mend: the data behind `ovseg doctor`."""

from collections.abc import Callable
from pathlib import Path

from . import environment, files, machine
from .finding import Finding, Status
from .run_directory import run_directory

__all__ = ["Finding", "Status", "diagnose"]

CHECKS: tuple[Callable[[], Finding], ...] = (
    environment.python,
    environment.torch,
    environment.torchvision_pair,
    environment.torchvision_operators,
    *(environment.package_check(name) for name in environment.PACKAGES),
    environment.clip,
    environment.extras,
    machine.cpu,
    machine.memory,
    machine.cuda,
    machine.mps,
    files.recipes,
    files.model_in_the_box,
    files.tagger_data,
    files.cache,
    files.datasets,
)


def diagnose(folder: Path = Path(), run: Path | None = None) -> list[Finding]:
    """Looks at Python, PyTorch, the other packages, the machine, our files, data, a run directory.

    Args:
        folder: where results would go.
        run: a run directory; None for `run` in the folder, if there is one.
    """
    findings = [check() for check in CHECKS]
    return [*findings, machine.space(folder), *run_directory(folder, run)]
