"""The run directory: artifacts, manifest, checkpoints and logs that the stages hand over."""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import CheckpointError, RunError
from .recipe import Recipe, load_recipe
from .run_lock import take_lock
from .storage import storage_errors, write_json, write_text, writing

MAKERS = {
    ("clip", "base"): "ovseg train-clip",
    ("clip", "masq"): "ovseg tune-clip --mode masq",
    ("clip", "rma"): "ovseg tune-clip --mode rma",
    ("clip", "maft"): "ovseg tune-clip --mode maft",
    ("clip", "ovseg-mpt"): "ovseg tune-clip --mode mpt",
    ("clip", "ovseg-finetune"): "ovseg tune-clip --mode finetune",
    ("clip", "ovseg-joint"): "ovseg tune-clip --mode joint",
    ("proposals", "teacher"): "ovseg train-proposals",
    ("proposals", "student"): "ovseg distill",
}


@dataclass(frozen=True)
class Run:
    """A run directory; making one writes nothing.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def manifest_path(self) -> Path:
        """The JSON file with a record a finished stage."""
        return self.path / "manifest.json"

    def manifest(self) -> list[dict[str, Any]]:
        """The records of the finished stages, oldest first.

        Raises:
            RunError: the file is damaged.
        """
        if not self.manifest_path.is_file():
            return []
        try:
            stages = list(json.loads(self.manifest_path.read_text(encoding="utf-8"))["stages"])
            _ = [record["stage"] for record in stages]  # each of them is one
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.manifest_path}: damaged; delete it, and run the stages again"
            ) from error
        return stages

    def record(self, record: "StageRecord") -> None:
        """Adds a finished stage to the manifest."""
        stages = [*self.manifest(), record.to_json()]
        write_json(self.manifest_path, {"version": 1, "stages": stages})

    def finished(
        self, stage: str, fingerprint: str, artifact: str | None = None
    ) -> dict[str, Any] | None:
        """The newest record of a stage, if it was made with the same settings and still stands.

        Args:
            stage: the command's name.
            fingerprint: of the settings.
            artifact: `kind/name` of what it made; records of its other artifacts do not count.
        """
        records = [
            entry
            for entry in self.manifest()
            if entry["stage"] == stage and entry["artifact"] == artifact
        ]
        if not records or records[-1]["fingerprint"] != fingerprint:
            return None
        kind, _, name = str(artifact or "").partition("/")
        stands = not kind or self.has_artifact(kind, name)
        return records[-1] if stands else None

    def save_recipe(self, recipe: Recipe) -> None:
        """Keeps the resolved recipe for the stages that follow."""
        path = self.path / "recipe.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != recipe.to_yaml():
            write_text(path, recipe.to_yaml())

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe that an earlier stage kept, with `section.option=value` overrides.

        Raises:
            RunError: there is none.
        """
        path = self.path / "recipe.yaml"
        if not path.is_file():
            raise RunError(f"{self.path}: no recipe.yaml there; name one with --recipe")
        return load_recipe(str(path), overrides)

    def artifact_path(self, kind: str, name: str) -> Path:
        """Where an artifact's tensors are."""
        return self.path / kind / f"{name}.safetensors"

    def has_artifact(self, kind: str, name: str) -> bool:
        """True if the artifact's tensors and its model description are both there."""
        path = self.artifact_path(kind, name)
        return path.is_file() and path.with_suffix(".json").is_file()

    def save_artifact(
        self, kind: str, name: str, tensors: dict[str, Tensor], model: dict[str, Any]
    ) -> Path:
        """Writes tensors and, beside them, the JSON that rebuilds the model.

        Raises:
            StorageError: no space left, or the folder cannot be written.
        """
        path = self.artifact_path(kind, name)
        save_tensors(path, tensors)
        write_json(path.with_suffix(".json"), model)
        return path

    def load_artifact(self, kind: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of an artifact and its model description.

        Raises:
            RunError: it is missing; the message names the command that makes it.
            CheckpointError: a file of it is damaged.
        """
        if not self.has_artifact(kind, name):
            series = name.partition("-")[0]  # student-1, student-2, ...
            maker = MAKERS.get((kind, name)) or MAKERS.get((kind, series))
            mend = f"; make it with '{maker} --run {self.path}'" if maker else ""
            raise RunError(f"{self.path}: has no {kind}/{name}.safetensors{mend}")
        return load_tensors(self.artifact_path(kind, name)), self.artifact_model(kind, name)

    def artifact_model(self, kind: str, name: str) -> dict[str, Any]:
        """The model description of an artifact that is there.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.artifact_path(kind, name).with_suffix(".json")
        try:
            model: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged; run the stage that made it again") from error
        return model

    def newest(self, kind: str, *, model_name: str | None = None) -> str | None:
        """The name of the newest artifact of a kind that the manifest knows and that stands.

        Args:
            kind: such as `proposals`.
            model_name: of what it is the weights of, such as `mask2former`; others and those that
                do not say are taken where there is none of it. None takes any.
        """
        named = (str(entry["artifact"] or "").partition("/") for entry in reversed(self.manifest()))
        there = [name for of, _, name in named if of == kind and self.has_artifact(kind, name)]
        wanted = (
            name
            for name in there
            if model_name in (None, self.artifact_model(kind, name).get("name"))
        )
        return next(wanted, there[0] if there else None)

    def changed_inputs(self, artifact: str) -> tuple[str, ...]:
        """The artifacts that one was made from and that are not the same any more.

        Args:
            artifact: `kind/name`; its newest record counts, and without one nothing is known.
        """
        records = [entry for entry in self.manifest() if entry["artifact"] == artifact]
        inputs = records[-1].get("inputs") or {} if records else {}
        there = [name for name in inputs if self.has_artifact(*name.split("/", 1))]
        return tuple(
            name
            for name in there
            if file_hash(self.artifact_path(*name.split("/", 1))) != inputs[name]
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing here meanwhile.

        Raises:
            RunError: another living process holds the lock.
        """
        path = self.path / ".lock"
        with storage_errors(path):
            self.path.mkdir(parents=True, exist_ok=True)
            take_lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class StageRecord:
    """What the manifest says of a finished stage.

    Attributes:
        stage: the command, such as `train-clip`.
        fingerprint: a hash of everything that decides the result; see `fingerprint_of`.
        seconds: wall-clock time it took, resumed parts included where known.
        artifact: `kind/name` of what it made, if that is an artifact.
        seed: the recipe's seed.
        device: where it ran.
        inputs: names of what it read, with a hash where there is one.
        results: figures for people: losses, counts, scores.
    """

    stage: str
    fingerprint: str
    seconds: float
    artifact: str | None = None
    seed: int = 0
    device: str = "cpu"
    inputs: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record with the circumstances: command, time, versions, machine."""
        return {
            **self.__dict__,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cpu_seconds": round(time.process_time(), 1),
            "versions": versions(),
            "machine": platform.machine(),
        }


def versions() -> dict[str, str]:
    """The versions that decide numbers."""
    names = ("ovseg", "torch", "open_clip_torch", "numpy", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def fingerprint_of(*values: Any) -> str:
    """A short hash of JSON-like values, equal for equal settings."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, 16 hex digits of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file whole or not at all.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    ready = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with writing(path) as temporary:
        try:
            save_file(ready, temporary, metadata)
            temporary.chmod(0o644)  # safetensors makes files for their owner alone
        except SafetensorError as error:
            _raise_as_os_error(error)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); make or fetch it again"
        ) from error


def _raise_as_os_error(error: SafetensorError) -> None:
    for number in (28, 122, 13, 30):
        if f"os error {number}" in str(error):
            raise OSError(number, os.strerror(number)) from error
    raise error
