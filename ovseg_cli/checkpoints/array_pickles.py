"""Detectron2's backbones: pickles of NumPy arrays, read without running what a pickle may hold."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg_cli.errors import CheckpointError

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _ArraysAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and arrays alone are read")
        return super().find_class(module, name)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a pickle in detectron2's layout, a dictionary under `model` or by itself.

    Args:
        path: such as R-103.pkl.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but arrays by name.
    """
    try:
        with path.open("rb") as file:
            found = _ArraysAlone(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path}: cannot be read as a pickle of arrays ({error})") from error
    arrays = found.get("model", found) if isinstance(found, dict) else None
    if not isinstance(arrays, dict) or not all(_of_numbers(value) for value in arrays.values()):
        raise CheckpointError(f"{path}: is no dictionary of arrays as detectron2 saves them")
    return {str(name): torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def _of_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
