"""Work on many files in several processes, with the results in order."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ovseg_cli.errors import UsageError

Job = TypeVar("Job")
Result = TypeVar("Result")
FEW = 400  # jobs that are done before other processes have begun


def results_of(
    jobs: Sequence[Job], work: Callable[[Job], Result], *, workers: int
) -> Iterator[Result]:
    """Does every job; the first one that fails, in their order, ends it.

    Args:
        jobs: what is handed to the processes.
        work: a function of a module, or a partial of one.
        workers: processes; 1 for this one alone, 0 for one a core where there are many jobs.

    Raises:
        UsageError: a negative number of workers.
    """
    if workers < 0:
        raise UsageError(f"--workers {workers}: give 0 or more")
    chosen = workers or (os.cpu_count() or 1 if len(jobs) > FEW else 1)
    if chosen == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(chosen, len(jobs)), _leave_ctrl_c_to_the_parent) as pool:
        yield from pool.imap(work, jobs, chunksize=8)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
