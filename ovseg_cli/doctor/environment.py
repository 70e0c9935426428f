"""Python and the packages: what is installed, and whether it fits together."""

import importlib
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from .finding import Finding, problem, warning

PACKAGES = ("open_clip_torch", "timm", "numpy", "scipy", "pillow", "pycocotools", "safetensors")
EXTRAS = {"video": "av", "export": "onnxruntime", "sam": "transformers", "ray": "ray"}


def python() -> Finding:
    """Its version."""
    found, fits = platform.python_version(), sys.version_info >= (3, 11)
    if fits:
        return Finding("python", found)
    return problem("python", found, "install Python 3.11")


def torch() -> Finding:
    """Whether PyTorch is there and loads."""
    found = installed("torch")
    if found is None:
        return problem("torch", "missing", "pip install ovseg")
    reason = import_problem("torch")
    if reason is not None:
        return problem("torch", f"{found}, but: {reason}", "pip install --force-reinstall torch")
    return Finding("torch", found)


def torchvision_pair() -> Finding:
    """Whether torchvision is the one made for this torch; another one loads all the same."""
    torch_version, found = installed("torch"), installed("torchvision")
    if found is None or torch_version is None:
        return problem("torchvision", found or "missing", "pip install ovseg")
    series = matching_torchvision(torch_version)
    if series is not None and not found.startswith(f"{series}."):
        mend = f"pip install 'torchvision=={series}.*' (the one for torch {torch_version})"
        return warning("torchvision", f"{found}, made for another torch", mend)
    return Finding("torchvision", found)


def matching_torchvision(torch_version: str) -> str | None:
    """The torchvision series made for a torch: 0.(15 + N) for 2.N; None for other torch versions.

    Args:
        torch_version: such as 2.13.0+cpu.
    """
    major, minor = torch_version.split(".")[:2]
    return f"0.{int(minor) + 15}" if major == "2" and minor.isdigit() else None


def torchvision_operators() -> Finding:
    """Ours take the place of missing ones, so that these are no fault."""
    name = "torchvision operators"
    reason = import_problem("ovseg_cli.torchvision_ops") or import_problem("torchvision")
    if reason is not None:
        return problem(name, reason, "install a torchvision that fits torch, see above")
    from ..torchvision_ops import are_declared_here

    if not are_declared_here():
        return Finding(name, "compiled")
    return Finding(name, "plain ones of ovseg (built for another torch); all that is needed works")


def package_check(package: str) -> Callable[[], Finding]:
    """A look at one package that everything needs.

    Args:
        package: its name as pip has it.
    """

    def check() -> Finding:
        found = installed(package)
        if found is None:
            return problem(package, "missing", f"pip install {package}")
        return Finding(package, found)

    return check


def clip() -> Finding:
    """Whether open_clip loads behind our own part."""
    reason = import_problem("ovseg_cli.clip")
    if reason is not None:
        return problem("CLIP", reason, "pip install --force-reinstall ovseg")
    return Finding("CLIP", "loads")


def extras() -> Finding:
    """What is optional: videos, ONNX files, SAM's proposals, mining on many machines."""
    there = {extra: installed(package) for extra, package in EXTRAS.items()}
    found = (f"{extra} {number or 'not installed'}" for extra, number in there.items())
    return Finding("extras", ", ".join(found) + "; pip install 'ovseg[NAME]' adds one")


def installed(package: str) -> str | None:
    """A package's version, None where it is missing.

    Args:
        package: its name as pip has it.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported; any error counts, that is what is being looked for.

    Args:
        module: its full name.
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None
