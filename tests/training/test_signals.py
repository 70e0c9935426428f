"""Signals as wishes: granted between steps, or at once around a wait."""

import os
import signal
import threading
import time

import pytest

from ovseg_cli.training.signals import Interrupted, at_once, stop_requests


def stop_if(request):
    if request.signal_number:
        raise Interrupted(request.signal_number, "stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait_at_once(number):
    before = signal.getsignal(number)
    start = time.monotonic()
    with stop_requests() as request:
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        with (
            pytest.raises(Interrupted, match="stopped") as stopped,
            at_once(lambda: stop_if(request)),
        ):
            time.sleep(60)
    assert time.monotonic() - start < 30
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before


def test_a_wait_without_a_signal_leaves_the_handlers_as_they_were():
    with stop_requests() as request:
        caught = signal.getsignal(signal.SIGINT)
        with at_once(lambda: stop_if(request)):
            assert signal.getsignal(signal.SIGINT) is not caught
        assert signal.getsignal(signal.SIGINT) is caught
        assert request.signal_number == 0


def test_outside_the_main_thread_a_wait_is_only_a_wait():
    done = []

    def wait():
        with at_once(lambda: done.append("checked")):
            done.append("waited")

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert done == ["waited"]
