"""`ovseg pack`: a run's segmenter as one small folder, in half precision, with a model card."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.proposer_parts import proposals_name
from ..checkpoints.run_parts import artifacts_of
from ..errors import RunError, UsageError
from ..recipe import Recipe
from ..run import Run, file_hash
from ..segmenter import Segmenter
from ..storage import write_json, write_text
from .evaluate_options import EvaluateOptions
from .scored_segmenter import scored_vocabulary
from .scoring import score
from .session import Settings, dataset_of, dataset_options, dataset_root

CARD = "card.json"
CHECKED_IMAGES = 40
GENERALIZED = "generalized"
SCORES = (
    ("PQ", "panoptic", "pq"),
    ("mIoU", "semantic", "miou"),
    ("mask AP50", "instance", "ap50"),
    ("proposal recall at IoU 0.5", "proposal_recall", "recall50"),
)


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        folder: works wherever a run directory does: `--model FOLDER`.
        megabytes: of all its files.
        card: what card.json holds.
    """

    folder: Path
    megabytes: float
    card: dict[str, Any]


def pack(settings: Settings, folder: Path) -> Packed:
    """Copies the artifacts that prediction needs as fp16, and writes card.json and README.md.

    The card says what the model was trained on, how long that took, what it scored, and what the
    packed weights score on the first images of the test split, so that a copy can be checked.

    Args:
        settings: run directory, recipe, device.
        folder: new or empty.

    Raises:
        UsageError: the folder holds something.
        RunError: the run directory lacks an artifact or an evaluation.
        StorageError: no space left, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists; give a new or empty folder")
    run, packed = settings.run, Run(folder)
    settings = replace(settings, recipe=_naming_its_proposals(settings))
    names = artifacts_of(run, settings.recipe)
    loaded = {name: run.load_artifact(*name.split("/")) for name in names}
    card = _card(settings, names)
    root = dataset_root(settings)
    dataset_of(settings, _split(settings), root=root)  # if it cannot be read, nothing is written
    for name, (tensors, model) in loaded.items():
        kind, _, part = name.partition("/")
        packed.save_artifact(kind, part, _halved(tensors), model)
    packed.save_recipe(settings.recipe)
    scores = check_scores(replace(settings, run=packed), root)
    card["check"] = {"split": _split(settings), "images": CHECKED_IMAGES, "scores": scores}
    write_json(folder / CARD, card)
    write_text(folder / "README.md", _readme(card))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Packed(folder, size / 1e6, card)


def check_scores(settings: Settings, root: Path) -> dict[str, Any]:
    """What a segmenter scores on the first images of the test split, as its card has it.

    Args:
        settings: the packed folder as run directory, its recipe, device.
        root: of the dataset.
    """
    dataset = dataset_of(settings, _split(settings), root=root)
    segmenter = Segmenter.from_run(settings.run, settings.recipe, device=settings.device)
    vocabulary = scored_vocabulary(dataset.vocabulary, segmenter.vocabulary_options.labels)
    options = EvaluateOptions(images=CHECKED_IMAGES, crop_accuracy=False)
    results, _ = score(segmenter, dataset, vocabulary, options).compute()
    scores = {key: results[metric]["all"][key] for _, metric, key in SCORES if metric in results}
    if "mask_accuracy" in results:
        scores["mask_accuracy"] = results["mask_accuracy"]["all"]
    return scores


def _naming_its_proposals(settings: Settings) -> Recipe:
    """The recipe for a folder without a manifest, which cannot tell the newest proposals."""
    recipe = settings.recipe
    artifacts = {"proposals": proposals_name(settings.run, recipe)}
    return replace(recipe, sections={**recipe.sections, "artifacts": artifacts})


def _split(settings: Settings) -> str:
    return dataset_options(settings).test


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value.half() if value.is_floating_point() else value for key, value in tensors.items()
    }


def _card(settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    stages = [
        {
            key: entry[key]
            for key in ("stage", "artifact", "cpu_seconds", "seed", "device", "results")
        }
        for entry in _records(settings.run, names)
    ]
    return {
        "recipe": settings.recipe.name,
        "seed": settings.recipe.seed,
        "dataset": settings.recipe.section("dataset"),
        "shapes": settings.recipe.section("shapes"),
        "artifacts": list(names),
        "stages": stages,
        "cpu_minutes": round(sum(entry["cpu_seconds"] for entry in stages) / 60, 1),
        "evaluation": _evaluation(settings.run, names),
    }


def _records(run: Run, names: Iterable[str]) -> list[dict[str, Any]]:
    """The newest records of artifacts and of what they were made from, oldest first."""
    newest = {entry["artifact"]: entry for entry in run.manifest()}
    wanted, left = set(), list(names)
    while left:
        name = left.pop()
        if name in newest and name not in wanted:
            wanted.add(name)
            left += newest[name]["inputs"]
    return [entry for name, entry in newest.items() if name in wanted]


def _evaluation(run: Run, names: tuple[str, ...]) -> dict[str, Any]:
    """The newest evaluation of exactly these artifacts, as they are now, on all classes."""
    hashes = {name: file_hash(run.artifact_path(*name.split("/"))) for name in names}
    for entry in reversed(run.manifest()):
        if entry["stage"] != "evaluate":
            continue
        metrics = run.path / entry["results"]["folder"] / "metrics.json"
        if not metrics.is_file():
            continue
        content = json.loads(metrics.read_text(encoding="utf-8"))
        whole = content.get("protocol", GENERALIZED) == GENERALIZED and not content.get("target")
        if whole and content["artifacts"] == hashes:
            return {"dataset": content["dataset"], "results": content["results"]}
    raise RunError(
        f"{run.path}: has no evaluation of these artifacts for the model card; make it with "
        f"'ovseg evaluate --run {run.path}'"
    )


def _readme(card: dict[str, Any]) -> str:
    results = card["evaluation"]["results"]
    lines = [
        f"| {title} | {_row({name: group.get(key) for name, group in results[metric].items()})} |"
        for title, metric, key in SCORES
        if metric in results
    ]
    if "mask_accuracy" in results:
        lines.append(f"| accuracy on annotated masks | {_row(results['mask_accuracy'])} |")
    table = "\n".join(["| | all | base | novel |", "|---|---|---|---|", *lines])
    devices = " and ".join(sorted({entry["device"] for entry in card["stages"]}))
    return (
        f"# A small segmenter, packed by ovseg\n\n"
        f"- Recipe `{card['recipe']}`, seed {card['seed']}; trained in {card['cpu_minutes']} CPU "
        f"minutes ({devices}) on {_trained_on(card)}.\n"
        "- Weights in fp16; made from a run directory by `ovseg pack`.\n\n"
        f"Scores of the run on {card['evaluation']['dataset']}, in percent:\n\n{table}\n"
    )


def _trained_on(card: dict[str, Any]) -> str:
    if not card["shapes"]:
        return f"`{card['dataset']['root']}`"
    return (
        "the synthetic set alone (`ovseg datasets make shapes`): it knows that set's drawn things "
        "and stuff, and on photographs it runs, but its answers mean nothing"
    )


def _row(values: dict[str, Any]) -> str:
    found = [values.get(name) for name in ("all", "base", "novel")]
    return " | ".join("-" if value is None else f"{100 * value:.1f}" for value in found)
