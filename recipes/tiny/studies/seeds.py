"""What the studies share: a run directory a seed, its commands, mean and spread.

A study gives each seed its own run directory FOLDER/seed-N, which all studies of one FOLDER share:
the synthetic set, the CLIP and the proposals are made once. Stages that are done and evaluations
that are there are left alone, so a study that was stopped goes on with the same line.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ovseg_cli.recipe import load_recipe
from ovseg_cli.storage import write_json, write_text

Results = dict[str, Any]
LIGHT = ("evaluate.crop_accuracy=false",)


@dataclass(frozen=True)
class SeedRun:
    """The run directory of a seed.

    Attributes:
        path: the run directory.
        recipe: the recipe's file with that seed.
        seed: the seed.
        threads: of each command.
    """

    path: Path
    recipe: Path
    seed: int
    threads: int

    @classmethod
    def of(cls, folder: Path, recipe: str, seed: int, threads: int) -> "SeedRun":
        """FOLDER/seed-N, with the shipped recipe of that seed beside it.

        Args:
            folder: of the study.
            recipe: the shipped recipe's name.
            seed: the seed.
            threads: of each command.
        """
        file = folder / f"{recipe.replace('/', '-')}-{seed}.yaml"
        write_text(file, load_recipe(recipe, [f"seed={seed}"]).to_yaml())
        return cls(folder / f"seed-{seed}", file, seed, threads)

    def ovseg(self, *arguments: str, settings: Sequence[str] = ()) -> None:
        """Runs a stage; its failure ends the study.

        Args:
            arguments: the command and its options, without run, recipe and settings.
            settings: `section.option=value` on top of the recipe.
        """
        command = [sys.executable, "-m", "ovseg_cli", *arguments, "--recipe", str(self.recipe)]
        command += ["--run", str(self.path)]
        for setting in settings:
            command += ["--set", setting]
        self._call(command)

    def prepare(self) -> None:
        """Makes the synthetic set, the CLIP and the first proposals."""
        shapes = ("datasets", "make", "shapes", str(self.path / "shapes"))
        self._call([sys.executable, "-m", "ovseg_cli", *shapes, "--recipe", str(self.recipe)])
        self.ovseg("train-clip")
        self.ovseg("train-proposals")

    def has_scores(self, name: str) -> bool:
        """True if there is an evaluation of that name."""
        return bool(self._scores(name))

    def scores(self, name: str, settings: Sequence[str] = ()) -> Results:
        """The results of an evaluation, which is made if it is not there.

        Args:
            name: of the evaluation.
            settings: `section.option=value` on top of the recipe.
        """
        if not self.has_scores(name):
            self.ovseg("evaluate", "--name", name, settings=settings)
        results: Results = json.loads(self._scores(name)[0].read_text())["results"]
        return results

    def rows(self, name: str, file: str) -> list[Results]:
        """The rows that an evaluation wrote beside its scores.

        Args:
            name: of the evaluation.
            file: `sweep` or `input_sizes`.
        """
        path = self._scores(name)[0].with_name(f"{file}.json")
        rows: list[Results] = json.loads(path.read_text())["rows"]
        return rows

    def cpu_seconds(self) -> dict[str, float]:
        """What each artifact cost, by its name."""
        stages = json.loads((self.path / "manifest.json").read_text())["stages"]
        return {entry["artifact"]: entry["cpu_seconds"] for entry in stages if entry["artifact"]}

    def recorded(self, stage: str) -> Results:
        """What the newest run of a stage recorded.

        Args:
            stage: its name, such as `mine-captions`.
        """
        stages = json.loads((self.path / "manifest.json").read_text())["stages"]
        results: Results = [entry["results"] for entry in stages if entry["stage"] == stage][-1]
        return results

    def _scores(self, name: str) -> list[Path]:
        return list(self.path.glob(f"evaluation/*/{name}/metrics.json"))

    def _call(self, command: list[str]) -> None:
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": str(self.threads)}, check=False
        )
        if done.returncode:
            sys.exit(done.returncode)


def study(
    description: str,
    recipe: str,
    run_seed: Callable[[SeedRun], dict[str, Results]],
    table: Callable[[list[dict[str, Results]]], str],
) -> None:
    """Runs what is missing of every seed, writes FOLDER/<script>.json and prints the table.

    Args:
        description: what `--help` says.
        recipe: the shipped recipe's name.
        run_seed: the results of a seed by the name of the evaluation.
        table: of all seeds' results, as Markdown.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, a thread each")
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)

    def run(seed: int) -> dict[str, Results]:
        return run_seed(SeedRun.of(options.folder, recipe, seed, threads))

    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(run, options.seeds))
    results = {str(seed): found for seed, found in zip(options.seeds, runs, strict=True)}
    write_json(options.folder / f"{Path(sys.argv[0]).stem}.json", results)
    print(table(runs))


def figure(results: Results, path: str) -> float | None:
    """A figure in percent, None where there is none.

    Args:
        results: of an evaluation.
        path: keys with dots between, such as `instance.novel.ap50`.
    """
    found: Any = results
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else 100 * float(found)


def cell(runs: Sequence[dict[str, Results]], name: str, path: str) -> str:
    """Mean and spread of a figure over seeds, `-` where one has none.

    Args:
        runs: the results of each seed.
        name: of the evaluation.
        path: of the figure, see `figure`.
    """
    values = [figure(run[name], path) for run in runs]
    found = [value for value in values if value is not None]
    return spread(found) if len(found) == len(values) else "-"


def difference(runs: Sequence[dict[str, Results]], name: str, other: str, path: str) -> str:
    """Mean and spread over seeds of how much a figure of one evaluation exceeds another's.

    Args:
        runs: the results of each seed.
        name: of the evaluation.
        other: of the evaluation that it is compared with.
        path: of the figure, see `figure`.
    """
    pairs = [(figure(run[name], path), figure(run[other], path)) for run in runs]
    return spread([a - b for a, b in pairs if a is not None and b is not None], signed=True)


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """`mean ± standard deviation`, the mean alone for one value."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):{'+' if signed else ''}.1f}{deviation}"
