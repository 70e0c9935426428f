"""Files of released weights, read without running what a pickle may hold.

Three kinds: safetensors, PyTorch's through `weights_only=True` and nothing else, and detectron2's
pickles of arrays.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_cli.checkpoints.array_pickles import read_arrays
from ovseg_cli.errors import CheckpointError
from ovseg_cli.run import load_tensors

HEAD_BYTES = 512
WRAPPERS = ("model", "state_dict")
TRAINER = "module."
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that torch.save began files with
ZIP = b"PK\x03\x04"
PICKLE = b"\x80"


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file by their names there, on the CPU.

    A state dict under `model` or `state_dict` is taken out of what a trainer wrapped around it, and
    so is a `module.` before every name. What kind of file it is, its first bytes say.

    Args:
        path: such as model_final.pkl, fcclip_cocopan.pth or model.safetensors.

    Raises:
        CheckpointError: there is no such file, it is damaged, no weights, or holds more than
            tensors by name.
    """
    head = _head(path)
    if head.startswith(ZIP):
        _check_archive(path)
        tensors = _tensors(_torch_load(path, mmap=True), path)
    elif head.startswith(PICKLE) and LEGACY_TORCH in head[:32]:
        tensors = _tensors(_torch_load(path, mmap=False), path)
    elif head.startswith(PICKLE):
        tensors = read_arrays(path)
    elif head[8:9] == b"{":
        tensors = load_tensors(path)
    else:
        raise CheckpointError(f"{path}: {_what_else(head)}")
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; fetch it again")
    if all(name.startswith(TRAINER) for name in tensors):
        tensors = {name.removeprefix(TRAINER): tensor for name, tensor in tensors.items()}
    return tensors


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{path}: is empty; fetch it again")
    return head


def _check_archive(path: Path) -> None:
    """Refuses archives that grow when they are read, which torch.save never writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is cut off or damaged ({error}); fetch it again") from error
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise CheckpointError(
            f"{path}: is a TorchScript program and no file of weights; of OpenAI's CLIPs name "
            "open_clip's with --set clip.architecture=NAME, else ask for the tensors alone"
        )
    grows = sum(member.file_size for member in members) > path.stat().st_size
    if grows or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: is a compressed archive and no file of weights; if the weights are inside, "
            "unpack it first"
        )


def _torch_load(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file can raise anything
        found = re.search(r"(?:Unsupported|unsupported) \w+ (\S+)", str(error))
        if found:
            raise CheckpointError(
                f"{path}: holds {found[1]} beside its tensors, which could run anything, and is "
                "not read; ask its authors for the tensors alone, such as a safetensors file"
            ) from error
        detail = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{path}: is cut off or damaged ({detail}); fetch it again"
        ) from error


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(
            f"{path}: is no dictionary of tensors by name; give the file as it was released"
        )
    return {str(name): tensor for name, tensor in found.items()}


def _what_else(head: bytes) -> str:
    """What a file is that is no weights, and what to do."""
    text = head.decode("utf-8", errors="ignore")
    if re.match(r"\s*<(!doctype|!--|html|head|\?xml)", text, flags=re.IGNORECASE):
        return (
            "is a web page and no weights; open the link in a browser, download the file from "
            "there, and give that"
        )
    if text.startswith("version https://git-lfs"):
        return "is a pointer to the weights, made by git lfs; fetch the file itself, 'git lfs pull'"
    whole = len(text.encode()) > len(head) - 4  # but for a character that the end cuts through
    if whole and "\0" not in text:
        return "is a text file and no weights; give the file as it was released"
    return (
        "is neither safetensors nor a file of PyTorch's or detectron2's; give the file as it was "
        "released"
    )
