"""MasQCLIP on the synthetic set, three seeds: MasQ-Tuning against frozen mask class tokens.

    python recipes/tiny/studies/masqclip.py FOLDER [--seeds 0 1 2] [--jobs 1]

Each seed is the whole chain of recipes/tiny/masqclip.sh in FOLDER/seed-N, and one more evaluation
with the frozen query projections. What is done is left alone, so the same line resumes. Writes
FOLDER/results.json and prints the table of the README.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ovseg_cli.recipe import load_recipe, recipes_folder
from ovseg_cli.storage import write_json, write_text

RECIPE = "tiny/masqclip"
FROZEN = ("--set", "mask_encoder.query=clip", "--name", "frozen")
BOTH = {"frozen": "frozen tokens", "tuned": "MasQ"}
EITHER = {"tuned": "-"}  # the same with and without tuning
ROWS = (
    ("zero-shot accuracy, crops", "crop_accuracy", None, EITHER, ""),
    ("proposal recall at IoU 0.5", "proposal_recall", "recall50", EITHER, ""),
    ("accuracy, annotated masks", "mask_accuracy", None, BOTH, ""),
    ("- of things", "mask_accuracy", None, BOTH, "things"),
    ("- of stuff", "mask_accuracy", None, BOTH, "stuff"),
    ("mIoU (classes in the ground truth)", "semantic", "miou", BOTH, ""),
    ("mIoU (or in the prediction)", "semantic", "miou_union", BOTH, ""),
    ("PQ", "panoptic", "pq", BOTH, ""),
    ("mask AP", "instance", "ap", BOTH, ""),
    ("mask AP50", "instance", "ap50", BOTH, ""),
)
GROUPS = ("base", "novel", "harmonic", "all")


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, a thread each")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        threads = max(1, (os.cpu_count() or 1) // options.jobs)
        runs = list(pool.map(lambda seed: run_seed(options.folder, seed, threads), options.seeds))
    results = {str(seed): run for seed, run in zip(options.seeds, runs, strict=True)}
    write_json(options.folder / "results.json", results)
    print(table(list(results.values())))


def run_seed(folder: Path, seed: int, threads: int) -> dict[str, Any]:
    """The metrics of a seed's tuned and frozen segmenters, and the seconds of its stages."""
    run = folder / f"seed-{seed}"
    recipe = run.with_suffix(".yaml")
    write_text(recipe, load_recipe(RECIPE, [f"seed={seed}"]).to_yaml())
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    chain = recipes_folder() / "tiny" / "masqclip.sh"
    if not (run / "done").is_file():
        call(["bash", str(chain), str(run), str(recipe)], environment)
        ovseg = [sys.executable, "-m", "ovseg_cli", "evaluate", "--run", str(run)]
        call([*ovseg, "--recipe", str(recipe), *FROZEN], environment)
        write_text(run / "done", "")
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    found = {path.parent.name: path for path in run.glob("evaluation/*/*/metrics.json")}
    frozen = found.pop("frozen")
    (tuned,) = found.values()
    return {
        "tuned": json.loads(tuned.read_text())["results"],
        "frozen": json.loads(frozen.read_text())["results"],
        "seconds": {entry["stage"]: entry["seconds"] for entry in stages},
        "cpu_seconds": {entry["stage"]: entry["cpu_seconds"] for entry in stages},
    }


def call(command: list[str], environment: dict[str, str]) -> None:
    """Runs a command; its failure ends the study."""
    done = subprocess.run(command, env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and spread over seeds in percent, frozen beside tuned, as Markdown."""
    lines = [
        "| | masks named by | base | novel | harmonic | all |",
        "|---|---|---|---|---|---|",
    ]
    for title, name, metric, kinds, part in ROWS:
        groups = (f"base_{part}", f"novel_{part}", "", part) if part else GROUPS
        for kind, named in kinds.items():
            cells = [cell(runs, kind, name, group, metric) for group in groups]
            lines.append(f"| {title} | {named} | {' | '.join(cells)} |")
    gains = [
        harmonic(run["tuned"]["mask_accuracy"]) - harmonic(run["frozen"]["mask_accuracy"])
        for run in runs
    ]
    lines.append(f"\nMasQ's gain in harmonic mean, annotated masks: {spread(gains)} points.")
    return "\n".join(lines)


def cell(runs: list[dict[str, Any]], kind: str, name: str, group: str, metric: str | None) -> str:
    """Mean and spread of one figure."""
    values = [run[kind][name].get(group) for run in runs]
    figures = [value[metric] if metric and value is not None else value for value in values]
    return "-" if any(f is None for f in figures) else spread([100 * f for f in figures])


def harmonic(accuracy: dict[str, float]) -> float:
    """The harmonic mean in percent."""
    return 100 * accuracy["harmonic"]


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`, the mean alone for one value."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
