"""The device and the precision that a user asks for."""

from typing import Literal, cast

import torch

from .errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["fp32", "bf16", "fp16", "auto"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: unknown; use auto, cpu, cuda or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: not supported; use auto, cpu, cuda or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: PyTorch finds no such CUDA device; try 'ovseg doctor'")
    if device.type == "mps" and not _has_mps():
        raise UsageError("--device mps: PyTorch finds no Apple GPU here; use cpu")
    return device


def checked_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name; `auto` is bf16 where the device computes in it, else fp32.

    Raises:
        UsageError: there is none of that name.
    """
    if name == "auto":
        return "bf16" if _computes_in_bf16(device) else "fp32"
    if name not in DTYPES:
        raise UsageError(f"--precision {name}: unknown; use auto, {', '.join(DTYPES)}")
    return cast(Precision, name)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs at that precision."""
    enabled = precision != "fp32"
    dtype = DTYPES[precision] if enabled else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))
