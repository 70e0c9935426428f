"""The lock of a run directory: a file with the process that writes there."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from .errors import RunError


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
        pid, host = 0, here
    return LockHolder(pid, host, host == here and not (pid and _alive(pid)))


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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
