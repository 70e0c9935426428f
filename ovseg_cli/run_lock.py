"""The lock of a run directory: a file with the process that writes there."""

import ctypes
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError

WRITTEN_AFTER = 5  # seconds; a lock without a process is then no longer one that is being made
WINDOWS_SYNCHRONIZE, WINDOWS_ACCESS_DENIED, WINDOWS_TIMEOUT = 0x100000, 5, 0x102


@dataclass(frozen=True)
class LockHolder:
    """Who took a lock.

    Attributes:
        pid: the process; 0 where the file does not say.
        host: its machine.
        is_gone: whether no such process lives; False for other machines, of which that is not
            known.
    """

    pid: int
    host: str
    is_gone: bool


def lock_holder(path: Path) -> LockHolder | None:
    """Who holds the lock; None without one.

    Args:
        path: the lock's file.
    """
    if not path.exists():
        return None
    here = socket.gethostname()
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return LockHolder(0, here, _age(path) > WRITTEN_AFTER)
    return LockHolder(pid, host, host == here and not _alive(pid))


def take_lock(path: Path) -> None:
    """Makes the lock's file; one whose process is gone is replaced.

    Args:
        path: the lock's file, in a folder that is there.

    Raises:
        RunError: another living process holds the lock.
    """
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _remove_if_stale(path)
            continue
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return
    raise RunError(f"{path}: another process just took the lock; try again")


def _remove_if_stale(path: Path) -> None:
    holder = lock_holder(path)
    if holder is not None and not holder.is_gone:
        raise RunError(
            f"{path.parent}: process {holder.pid} on {holder.host} is writing there; wait for it, "
            f"choose another --run, or delete {path} if that process is gone"
        )
    path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # it was given back meanwhile
        return float("inf")


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    if os.name == "nt":
        return _alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _alive_on_windows(pid: int) -> bool:
    """Asks for the process; `os.kill` would end it, whatever the signal."""
    library: Any = ctypes  # these parts of it are there on Windows alone
    kernel = library.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = ctypes.c_void_p
    process = kernel.OpenProcess(WINDOWS_SYNCHRONIZE, False, ctypes.c_uint32(pid))
    if not process:
        return bool(library.get_last_error() == WINDOWS_ACCESS_DENIED)
    handle = ctypes.c_void_p(process)
    runs = kernel.WaitForSingleObject(handle, 0) == WINDOWS_TIMEOUT
    kernel.CloseHandle(handle)
    return bool(runs)
