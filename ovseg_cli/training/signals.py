"""Ctrl-C and `kill` as a wish that the loop grants at the end of its step."""

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Interrupted(Exception):
    """A stage stopped because it was asked to; what it had is saved.

    Attributes:
        signal_number: SIGINT or SIGTERM; the exit code is 128 more.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


@dataclass
class StopRequest:
    """The signal that came, 0 while none has."""

    signal_number: int = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the first SIGINT or SIGTERM; a second one of them acts at once as usual.

    Outside the main thread signals cannot be caught, and nothing changes.
    """
    request = StopRequest()
    previous: dict[int, signal._HANDLER] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def catch(number: int, frame: types.FrameType | None) -> None:
        request.signal_number = number
        restore()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, catch)
    except ValueError:
        pass
    try:
        yield request
    finally:
        restore()


@contextmanager
def at_once(check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` when a signal comes, around a wait that cannot call it itself.

    Args:
        check: sees what `stop_requests` has noted, and raises to end the wait.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, frame: types.FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        check()

    try:
        for number in before:
            signal.signal(number, catch)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is catch:
                signal.signal(number, handler)
