"""Finds and loads the reference cases: outputs of the released implementations on random weights."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(
    os.environ.get("OVSEG_REFERENCE", Path(__file__).parents[1] / ".." / "shared" / "reference")
).resolve()


def cases(prefix: str) -> list[Any]:
    """One parameter a case whose name is the prefix and one more word; one that skips if none."""
    found = sorted(path for path in FOLDER.glob(f"{prefix}*") if _is_case(path, prefix))
    if not found:
        reason = f"no case {prefix}* in {FOLDER}; set OVSEG_REFERENCE"
        return [pytest.param(None, id=f"{prefix}none", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.stem) for path in found]


def _is_case(path: Path, prefix: str) -> bool:
    return (path.suffix == ".safetensors" or path.is_dir()) and "_" not in path.stem[len(prefix) :]


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a case and its metadata, JSON values parsed."""
    with safe_open(path, "pt") as file:
        metadata = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
