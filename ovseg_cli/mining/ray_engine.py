"""Mining on many machines: the shards of `batches.mine_batches`, made by the workers of a cluster.

Ray Data (docs.ray.io) hands out batches of images; each worker holds a segmenter. Workers read the
run directory and the images, which all machines must see under the same paths, and write nothing:
what they find comes back to the one process that asked, and that writes the shards whole. Where a
worker or its machine dies, Ray does its batch again elsewhere, as often as it takes.

The cluster is the one at RAY_ADDRESS; without it Ray runs on this machine until the pairs are done.
"""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg_cli import errors
from ovseg_cli.errors import OvsegError, RunError, UsageError
from ovseg_cli.training.signals import at_once

from .batches import Check, Shard, pairs_of_batch, write_shards
from .figures import Figures
from .pairing import Pairing
from .shards import PairFiles

STORE_BYTES = 256 * 1024**2  # of a cluster on this machine; shards of pairs are small
PROBE_SECONDS = 5.0
LOST_STARTS = 3  # workers in a row that may die while they start
MISSING = "--engine ray: Ray is not installed; get it with 'pip install ovseg[ray]'"


@dataclass(frozen=True)
class Workers:
    """Who mines.

    Attributes:
        make_pairing: loads a segmenter onto a device; any worker can call it.
        count: how many workers; None for as many as the cluster has room for.
        gpus: of a worker, a share where several use one; 0 for a processor core alone.
        device: of workers without a GPU.
    """

    make_pairing: Callable[[torch.device], Pairing]
    count: int | None
    gpus: float
    device: torch.device


def check_ray() -> None:
    """Makes sure that Ray can be used.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UsageError(MISSING) from error


def mine_on_cluster(files: PairFiles, workers: Workers, *, check: Check = lambda: None) -> None:
    """Writes the shard of every batch that is not done, whichever is ready first.

    Args:
        files: with the nouns of all batches, in a folder that all machines see.
        workers: who mines.
        check: called while shards are waited for; may raise to stop.

    Raises:
        UsageError: there is no cluster at RAY_ADDRESS, or it has no room for the workers.
        RunError: the workers cannot go on; shards that came back are kept.
        OvsegError: what a worker has met that the user can mend.
    """
    write_shards(files, partial(_shards, files, workers, check))


def _shards(
    files: PairFiles, workers: Workers, check: Check, waiting: list[int]
) -> Iterator[Shard]:
    if not waiting:
        return
    with _cluster(workers), _clear_errors(check):
        blocks = iter(_mined(files, workers, _count(workers), waiting))
        while (block := _next(blocks, check)) is not None:
            for columns in zip(block["batch"], block["shard"], block["error"], strict=True):
                yield _shard(*columns)


def _shard(batch: np.int64, shard: str, error: str) -> Shard:
    """What a worker has found; its error is raised here."""
    if error:
        kind, message = json.loads(error)
        raise getattr(errors, kind)(message)
    records, figures = json.loads(shard)
    return int(batch), records, Figures.from_json(figures)


def _next(blocks: Iterator[dict[str, Any]], check: Check) -> dict[str, Any] | None:
    check()
    with at_once(check):
        return next(blocks, None)


def _mined(
    files: PairFiles, workers: Workers, count: int, waiting: list[int]
) -> Iterable[dict[str, Any]]:
    """A row a batch; each batch is a block of its own, so that a dead worker costs one."""
    import ray.data

    batches = ray.data.from_items(
        [{"batch": batch} for batch in waiting], override_num_blocks=len(waiting)
    )
    parts = ray.put((files, workers.make_pairing, workers.device, Path.cwd()))
    mined = batches.map_batches(
        _Worker,
        fn_constructor_args=([parts],),  # in a list it stays a reference
        batch_size=1,
        num_cpus=1,
        num_gpus=workers.gpus,
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
    )
    return mined.iter_batches(batch_size=None, prefetch_batches=0)


class _Worker:
    """Holds a segmenter in a process of its own, from its first batch on."""

    def __init__(self, parts: list[Any]) -> None:
        self._reference = parts[0]

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """A batch's shard as JSON, or else the error that the user can mend."""
        batch, shard, error = int(rows["batch"][0]), "", ""
        try:
            files, pairing = self._parts
            records, figures = pairs_of_batch(files.read_nouns(batch), pairing)
            shard = json.dumps([records, figures.to_json()])
        except OvsegError as problem:
            error = json.dumps([type(problem).__name__, str(problem)])
        return {"batch": [batch], "shard": [shard], "error": [error]}

    @cached_property
    def _parts(self) -> tuple[PairFiles, Pairing]:
        import ray

        files, make_pairing, device, folder = ray.get(self._reference)
        if folder.is_dir():
            os.chdir(folder)  # a recipe may name files from there
        return files, make_pairing(torch.device("cuda") if ray.get_gpu_ids() else device)


def _count(workers: Workers) -> int:
    """How many workers the cluster has room for.

    Raises:
        UsageError: fewer than wanted, or none.
    """
    import ray

    there = ray.cluster_resources()
    cores, gpus = int(there.get("CPU", 0)), there.get("GPU", 0.0)
    room = min(cores, int(gpus / workers.gpus)) if workers.gpus else cores
    wanted = workers.count or max(room, 1)
    if wanted > room:
        raise UsageError(
            f"[mine_captions] workers: {wanted} need a core and {workers.gpus:g} GPUs each, but "
            f"the cluster has {cores} cores and {gpus:g} GPUs; there is room for {room}, or for "
            "more with a smaller share of a GPU as worker_gpus"
        )
    return wanted


@contextmanager
def _cluster(workers: Workers) -> Iterator[None]:
    """Connected to Ray, which is quiet, keeps no signal and reports to nobody."""
    import ray

    if ray.is_initialized():
        yield
        return
    _prepare()
    handler = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"num_cpus": workers.count, "include_dashboard": False}
        options |= {"object_store_memory": STORE_BYTES}
    try:
        _probe(address)
        ray.init(address, **options)
    except Exception as error:  # Ray raises no narrower one where it cannot start in time
        raise UsageError(
            f"RAY_ADDRESS: no Ray cluster can be used at {address!r} "
            f"({' '.join(str(error).split())[:200]}); start one of this version with "
            "'ray start --head', or unset it to run on this machine"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray takes it
    try:
        yield
    finally:
        ray.shutdown()


def _prepare() -> None:
    import ray.data

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = LOST_STARTS
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, too


def _probe(address: str) -> None:
    """Fails in seconds where nobody listens; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()


@contextmanager
def _clear_errors(check: Check) -> Iterator[None]:
    """Puts what Ray cannot go on from into one sentence.

    Args:
        check: of `mine_on_cluster`.

    Raises:
        RunError: workers die again and again, or have met a fault of this program.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        check()  # whoever stops everything gets such errors too
        raise RunError(
            f"Ray gave up: {str(error).strip().splitlines()[-1]}; finished shards are kept, and "
            "the same command goes on"
        ) from error
