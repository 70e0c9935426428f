"""Work in several processes."""

import math
import os

import pytest

from ovseg_cli.errors import UsageError
from ovseg_cli.stages.processes import results_of


def test_results_come_in_order_from_several_processes() -> None:
    assert list(results_of(range(40), math.factorial, workers=2))[5] == 120
    with pytest.raises(ValueError, match="negative"):
        list(results_of([3, -1, 2], math.factorial, workers=2))
    with pytest.raises(UsageError, match="--workers -1: give 0 or more"):
        list(results_of([1], math.factorial, workers=-1))


def test_a_process_that_is_killed_ends_the_work() -> None:
    with pytest.raises(UsageError, match=r"--workers 2: a process was ended .* try --workers 1"):
        list(results_of([1, 2], os._exit, workers=2))
