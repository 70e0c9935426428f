"""What every stage that writes into a run directory does around its own work."""

import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..datasets.class_lists import ClassList, Part
from ..datasets.coco import CocoDataset
from ..datasets.coco_files import Kind
from ..device import Precision, PrecisionChoice, checked_precision, select_device
from ..errors import RecipeError
from ..recipe import Recipe, build
from ..run import Run, StageRecord, file_hash, fingerprint_of
from ..training import distributed
from ..training.checkpoint import Checkpoint
from ..vocabulary import builtin_ids, builtin_vocabulary


@dataclass(frozen=True)
class Settings:
    """What the user says to any stage.

    Attributes:
        run: where artifacts are read and written.
        recipe: the resolved recipe.
        device: where to compute.
        precision: of the forward passes; None for the stage's own.
        restart: begin anew instead of going on, or of leaving finished work as it is.
    """

    run: Run
    recipe: Recipe
    device: torch.device = field(default_factory=lambda: select_device("cpu"))
    precision: Precision | None = None
    restart: bool = False

    def precision_or(self, own: PrecisionChoice) -> Precision:
        """What the user asked for, or else the stage's own precision."""
        return self.precision or checked_precision(own, self.device)


@dataclass(frozen=True)
class DatasetOptions:
    """The recipe's section `dataset`.

    Attributes:
        root: the dataset's folder, see `dataset_root`.
        train: the split to learn from.
        val: the split to choose settings on.
        test: the split to report.
        annotations: `panoptic`, or `instances` where a dataset has things alone.
        classes: a built-in vocabulary with the dataset's category ids, such as `coco_48_17`: other
            categories are left out, words and seen classes are the vocabulary's; None for the
            dataset's own categories and names.
        images: the image folder below the root, where it is not the split's name.
    """

    root: str
    train: str = "train"
    val: str = "val"
    test: str = "test"
    annotations: Kind = "panoptic"
    classes: str | None = None
    images: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a stage made.

    Attributes:
        stage: its name.
        artifact: `kind/name` of what it made, if that is an artifact.
        results: figures for people.
        seconds: wall-clock time.
        already_done: True if an earlier run of the same settings had made it.
    """

    stage: str
    artifact: str | None
    results: dict[str, Any]
    seconds: float
    already_done: bool = False


def run_stage(
    settings: Settings,
    stage: str,
    work: Callable[[str], dict[str, Any]],
    *,
    artifact: str | None,
    sections: tuple[str, ...],
    inputs: dict[str, str] | None = None,
    checkpoint_name: str | None = None,
) -> Outcome:
    """Does a stage's work once: locked, recorded, and left alone where it is done already.

    Args:
        settings: what the user said.
        stage: the command's name, `train-clip`.
        work: makes and saves the artifact; it is given the fingerprint for its checkpoint and
            returns the figures to record.
        artifact: `kind/name` of what it makes.
        sections: the recipe's sections that decide the result.
        inputs: what it reads, with hashes.
        checkpoint_name: of its checkpoint and log where a stage makes several artifacts; else the
            stage's.

    Raises:
        RunError: another process writes into the run directory.
    """
    options = {name: settings.recipe.section(name) for name in sections}
    fingerprint = fingerprint_of(stage, options, settings.recipe.seed, inputs, settings.precision)
    started = distributed.start(settings.device)
    try:
        with settings.run.lock() if distributed.is_main() else nullcontext():
            distributed.barrier()
            checkpoint = Checkpoint(settings.run, checkpoint_name or stage, fingerprint)
            done = settings.run.finished(stage, fingerprint, artifact)
            if settings.restart:
                checkpoint.remove()
            elif done and not checkpoint.is_there():  # it is there if a --restart was stopped
                distributed.barrier()
                return Outcome(stage, artifact, done["results"], done["seconds"], True)
            distributed.barrier()
            if distributed.is_main():
                settings.run.save_recipe(settings.recipe)
            start = time.monotonic()
            results = work(fingerprint)
            seconds = float(results.get("seconds", time.monotonic() - start))
            if distributed.is_main():
                settings.run.record(
                    StageRecord(
                        stage=stage,
                        fingerprint=fingerprint,
                        seconds=round(seconds, 1),
                        artifact=artifact,
                        seed=settings.recipe.seed,
                        device=str(settings.device),
                        inputs=inputs or {},
                        results=results,
                    )
                )
            checkpoint.remove()
            distributed.barrier()
            return Outcome(stage, artifact, results, seconds)
    finally:
        if started:
            distributed.stop()


def artifact_hashes(settings: Settings, *names: str) -> dict[str, str]:
    """Hashes of the run directory's artifacts, for `run_stage`; what is missing is left out.

    Args:
        settings: say the run directory.
        names: such as `clip/base`.
    """
    run = settings.run
    parts = {name: name.split("/", 1) for name in names}
    return {
        name: file_hash(run.artifact_path(kind, own))
        for name, (kind, own) in parts.items()
        if run.has_artifact(kind, own)
    }


def annotation_hashes(settings: Settings, *names: str) -> dict[str, str]:
    """Hashes of the dataset's annotation files, for `run_stage`; what is missing is left out.

    Args:
        settings: the recipe names the dataset.
        names: of files in its folder `annotations`.

    Raises:
        RecipeError: the recipe names no dataset, or no such folder exists.
    """
    folder = dataset_root(settings) / "annotations"
    there = [name for name in names if (folder / name).is_file()]
    return {f"annotations/{name}": file_hash(folder / name) for name in there}


def dataset_root(settings: Settings) -> Path:
    """The folder of the recipe's dataset, see `data_folder`.

    Raises:
        RecipeError: the recipe names no dataset, or no such folder exists.
    """
    root = settings.recipe.section("dataset").get("root")
    if not root:
        raise RecipeError("[dataset] root is missing; set it to the dataset's folder")
    mend = (
        "make the synthetic set with 'ovseg datasets make shapes DIR', or name your folder with "
        "--set dataset.root=DIR"
    )
    return data_folder(settings, "dataset", str(root), mend)


def data_folder(settings: Settings, section: str, root: str, mend: str) -> Path:
    """A dataset's folder: below OVSEG_DATA, the run directory or this folder.

    Args:
        settings: say the run directory.
        section: of the recipe, for messages.
        root: the folder's name or path.
        mend: what to do if there is none.

    Raises:
        RecipeError: no such folder exists.
    """
    bases = [Path(os.environ["OVSEG_DATA"])] if os.environ.get("OVSEG_DATA") else []
    places = [base / root for base in [*bases, settings.run.path, Path()]]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(str(place) for place in places)
    raise RecipeError(f"[{section}] root: no folder {root!r} (looked for {looked}); {mend}")


def dataset_options(settings: Settings) -> DatasetOptions:
    """The recipe's section `dataset`, checked.

    Raises:
        RecipeError: an option that cannot be used.
    """
    return build("dataset", settings.recipe.section("dataset"), DatasetOptions)


def dataset_of(
    settings: Settings, split: str, *, part: Part = "all", root: Path | None = None
) -> CocoDataset:
    """A split of the recipe's dataset, with the classes and annotations that the recipe names.

    Args:
        settings: the recipe says where the dataset is.
        split: such as `val2017`.
        part: `seen` to learn from it: the annotations of unseen classes are then left out.
        root: the dataset's folder, instead of where the recipe says it is.

    Raises:
        RecipeError: an option that cannot be used, or no such folder exists.
        VocabularyError: the recipe names no built-in vocabulary.
        InputError: the dataset cannot be read.
    """
    options, folder = dataset_options(settings), root or dataset_root(settings)
    classes = class_list(options.classes)
    return CocoDataset(
        folder,
        split,
        annotations=options.annotations,
        class_list=classes,
        part=part,
        images=options.images,
    )


def class_list(name: str | None) -> ClassList | None:
    """The classes of a built-in vocabulary by their category ids; None of None.

    Raises:
        VocabularyError: there is none of that name.
    """
    return None if name is None else ClassList(builtin_ids(name), builtin_vocabulary(name))


def check_name(section: str, name: str, *, option: str = "name") -> None:
    """Checks that an artifact can be called so.

    Args:
        section: of the recipe, for messages.
        name: the artifact's.
        option: of the section, for messages.

    Raises:
        RecipeError: it cannot be part of a file's name.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RecipeError(
            f"[{section}] {option}: {name!r} cannot be part of a file's name; use letters, digits, "
            "'-' and '_'"
        )


def train_split(settings: Settings) -> str:
    """The split that the recipe learns from."""
    return str(settings.recipe.section("dataset").get("train", "train"))


def tuning_section(recipe: Recipe) -> dict[str, Any]:
    """The recipe's section `tune_clip` without its mode."""
    return {k: v for k, v in recipe.section("tune_clip").items() if k != "mode"}
