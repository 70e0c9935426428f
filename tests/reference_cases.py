"""Finds and loads the reference cases: what the released code gave on random weights."""

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


KINDS = (
    "masqclip_",
    "masqclip_infer_",
    "masqclip_proposal_head_",
    "masqclip_train_",
    "masqclip_distill_",
    "mask2former_criterion_",
    "maskclip_rma_",
    "maskclip_infer_",
    "fcclip_full_",
    "fcclip_post_",
    "maft_ipclip_",
    "maft_losses_",
    "ovseg_",
    "panoptic_quality_",
)


def cases(prefix: str) -> list[Any]:
    """One parameter a case of the kind that `prefix` names; one that skips if there is none."""
    found = sorted(path for path in FOLDER.glob(f"{prefix}*") if _kind(path) == prefix)
    if not found:
        reason = f"no case {prefix}* in {FOLDER}; set OVSEG_REFERENCE"
        return [pytest.param(None, id=f"{prefix}none", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.stem) for path in found]


def _kind(path: Path) -> str | None:
    if path.suffix != ".safetensors" and not path.is_dir():
        return None
    return max((kind for kind in KINDS if path.name.startswith(kind)), key=len, default=None)


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
