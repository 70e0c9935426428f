"""What is installed, what is missing, and the mend: the data behind `ovseg doctor`."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .mining.tagger_data import tagger_folder
from .recipe import recipes_folder, shipped_recipes

_PACKAGES = ("open_clip_torch", "timm", "numpy", "scipy", "pillow", "pycocotools", "safetensors")
_TINY = Path(__file__).parent / "assets" / "tiny"
_LITTLE_SPACE = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: what is there, in a few words.
        mend: what to do about it; None where all is well.
    """

    name: str
    found: str
    mend: str | None = None


def diagnose(folder: Path = Path()) -> list[Finding]:
    """Looks at Python, PyTorch, torchvision, the other packages, devices, our own files, space.

    Args:
        folder: where results would go.
    """
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _torch,
        _torchvision_pair,
        _torchvision_operators,
        *(_package_check(name) for name in _PACKAGES),
        _open_clip_import,
        _cpu,
        _cuda,
        _mps,
        _recipes,
        _model_in_the_box,
        _tagger_data,
        lambda: _space(folder),
    )
    return [check() for check in checks]


def matching_torchvision(torch_version: str) -> str | None:
    """The torchvision series made for a torch: 0.(15 + N) for 2.N; None for other torch versions.

    Args:
        torch_version: such as 2.13.0+cpu.
    """
    major, minor = torch_version.split(".")[:2]
    return f"0.{int(minor) + 15}" if major == "2" and minor.isdigit() else None


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python() -> Finding:
    fits = sys.version_info >= (3, 11)
    return Finding("python", platform.python_version(), None if fits else "install Python 3.11")


def _torch() -> Finding:
    found = _installed("torch")
    if found is None:
        return Finding("torch", "missing", "pip install ovseg")
    problem = _import_problem("torch")
    return Finding("torch", found if problem is None else f"{found}, but: {problem}",
                   None if problem is None else "pip install --force-reinstall torch")  # fmt: skip


def _torchvision_pair() -> Finding:
    torch_version, found = _installed("torch"), _installed("torchvision")
    if found is None or torch_version is None:
        return Finding("torchvision", found or "missing", "pip install ovseg")
    series = matching_torchvision(torch_version)
    if series is not None and not found.startswith(f"{series}."):
        mend = f"pip install 'torchvision=={series}.*' (the one for torch {torch_version})"
        return Finding("torchvision", f"{found}, made for another torch", mend)
    return Finding("torchvision", found)


def _torchvision_operators() -> Finding:
    """Ours take the place of missing ones, so that these are no fault."""
    name = "torchvision operators"
    problem = _import_problem("ovseg_cli.torchvision_ops") or _import_problem("torchvision")
    if problem is not None:
        return Finding(name, problem, "install a torchvision that fits torch, see above")
    from .torchvision_ops import are_declared_here

    if not are_declared_here():
        return Finding(name, "compiled")
    return Finding(name, "plain ones of ovseg (built for another torch); all that is needed works")


def _package_check(package: str) -> Callable[[], Finding]:
    def check() -> Finding:
        found = _installed(package)
        return Finding(package, found or "missing", None if found else f"pip install {package}")

    return check


def _open_clip_import() -> Finding:
    problem = _import_problem("ovseg_cli.clip")
    return Finding("CLIP", "loads" if problem is None else problem,
                   None if problem is None else "pip install --force-reinstall ovseg")  # fmt: skip


def _cpu() -> Finding:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Finding("device cpu", f"{cores} cores, {platform.machine()}")


def _cuda() -> Finding:
    if _import_problem("torch") is not None:
        return Finding("device cuda", "not known without torch")
    import torch

    if torch.version.cuda is None:
        return Finding("device cuda", "this torch is built without CUDA")
    if not torch.cuda.is_available():
        return Finding("device cuda", "no GPU that torch can use")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding(
        "device cuda", ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GB)" for d in devices)
    )


def _mps() -> Finding:
    if _import_problem("torch") is not None:
        return Finding("device mps", "not known without torch")
    import torch

    return Finding("device mps", "available" if torch.backends.mps.is_available() else "none here")


def _recipes() -> Finding:
    count = len(shipped_recipes())
    found = f"{count} in {recipes_folder()}"
    return Finding("recipes", found, None if count else "install ovseg again: its data is missing")


def _model_in_the_box() -> Finding:
    if not (_TINY / "recipe.yaml").is_file():
        mend = "install ovseg again, or train one: recipes/tiny/masqclip.sh"
        return Finding("model tiny", "missing", mend)
    size = sum(path.stat().st_size for path in _TINY.rglob("*") if path.is_file())
    return Finding("model tiny", f"{size / 1e6:.1f} MB, knows synthetic shapes only")


def _tagger_data() -> Finding:
    folder = tagger_folder()
    if folder is None:
        found, mend = "missing: mine-captions finds nouns by rules", "ovseg models pull nltk"
        return Finding("NLTK's tagger data", found, mend)
    return Finding("NLTK's tagger data", str(folder))


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("this folder", "cannot be written", "change to a folder of your own")
    mend = "free some space, checkpoints and datasets need it" if free < _LITTLE_SPACE else None
    return Finding("this folder", f"{free / 2**30:.1f} GB free", mend)


def _import_problem(module: str) -> str | None:
    """Why a module cannot be imported; any error counts, that is what is being looked for."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None
