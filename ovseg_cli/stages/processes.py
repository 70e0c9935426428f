"""Work on many files in several processes, with the results in order."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from ovseg_cli.errors import UsageError

Job = TypeVar("Job")
Result = TypeVar("Result")
FEW = 400  # jobs that are done before other processes have begun
MOST = 61  # processes that Windows can wait for


def results_of(
    jobs: Sequence[Job], work: Callable[[Job], Result], *, workers: int
) -> Iterator[Result]:
    """Does every job; the first one that fails, in their order, ends it.

    Args:
        jobs: what is handed to the processes.
        work: a function of a module, or a partial of one.
        workers: processes; 1 for this one alone, 0 for one a core where there are many jobs. With
            others, a script calls this below `if __name__ == "__main__":`.

    Raises:
        UsageError: a negative number of workers, or the system ended one of them.
    """
    if workers < 0:
        raise UsageError(f"--workers {workers}: give 0 or more")
    chosen = workers or (os.cpu_count() or 1 if len(jobs) > FEW else 1)
    if chosen == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(
        min(chosen, len(jobs), MOST),
        multiprocessing.get_context("spawn"),
        _prepare_process,
    )
    try:
        yield from pool.map(work, jobs)
    except BrokenProcessPool as error:
        raise UsageError(
            f"--workers {workers}: a process was ended from outside, most often for want of "
            'memory; try --workers 1, or in a script call it below `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """Leaves Ctrl-C to the parent, and the other cores to the other processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
