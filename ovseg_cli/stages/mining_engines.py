"""Who mines the pairs: this process, or the workers of a Ray cluster; the pairs are the same."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch

from ovseg_cli.errors import UsageError
from ovseg_cli.mining.batches import Check, mine_batches
from ovseg_cli.mining.noun_embeddings import NounEmbeddings
from ovseg_cli.mining.pairing import Pairing, PairingOptions
from ovseg_cli.mining.ray_engine import Workers, check_ray, mine_on_cluster
from ovseg_cli.mining.shards import PairFiles
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.mining_options import MineCaptionsOptions
from ovseg_cli.stages.session import Settings

Engine = Literal["single", "ray"]


def check_engine(engine: str) -> None:
    """Makes sure that an engine can be used.

    Args:
        engine: what `--engine` says.

    Raises:
        UsageError: there is no such engine, or Ray is not installed.
    """
    if engine not in get_args(Engine):
        raise UsageError(f"--engine {engine}: choose one of {', '.join(get_args(Engine))}")
    if engine == "ray":
        check_ray()


def segmenter_on(settings: Settings, device: torch.device) -> Segmenter:
    """The recipe's segmenter in the precision of mining, which is fp32 unless another is asked for.

    Args:
        settings: say the run directory and the recipe.
        device: where it will compute.

    Raises:
        RunError: an artifact is missing.
    """
    precision = settings.precision_or("fp32")
    return Segmenter.from_run(settings.run, settings.recipe, device=device, precision=precision)


def miner_of(
    engine: str,
    settings: Settings,
    options: MineCaptionsOptions,
    pairing: Pairing,
    files: PairFiles,
) -> Callable[[Check], None]:
    """Writes all shards that are missing, once it is called with what may stop it.

    Args:
        engine: `single` or `ray`.
        settings: of which `pairing` is made.
        options: of mining.
        pairing: finds the pairs of an image in this process; Ray's workers each make their own, so
            that nothing keeps its segmenter.
        files: with the nouns of all batches.
    """
    if engine == "single":
        return lambda check: mine_batches(files, pairing, check=check)
    workers = _workers(settings, options, pairing)
    return lambda check: mine_on_cluster(files, workers, check=check)


def _workers(settings: Settings, options: MineCaptionsOptions, pairing: Pairing) -> Workers:
    """Workers are in folders and on devices of their own, and read the same absolute paths."""
    absolute = replace(settings, run=Run(settings.run.path.resolve()))
    images = pairing.images.resolve()
    on_gpu = settings.device.type == "cuda"
    return Workers(
        partial(_pairing_on, absolute, pairing.embeddings, pairing.options, images),
        count=options.workers,
        gpus=float(on_gpu) if options.worker_gpus is None else options.worker_gpus,
        device=torch.device("cpu") if on_gpu else settings.device,
    )


def _pairing_on(
    settings: Settings,
    embeddings: NounEmbeddings,
    options: PairingOptions,
    images: Path,
    device: torch.device,
) -> Pairing:
    return Pairing(segmenter_on(settings, device), embeddings, options, images)
