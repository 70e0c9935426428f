"""`ovseg models import`: a released file becomes a run directory.

What is in the file is stored as it is, in safetensors; what is not, such as MasQCLIP's text tower,
comes from open_clip when the model is used. A whole CLIP is stored as `clip/base`, so that the run
directory needs no connection; an image tower alone is put into open_clip's CLIP (`clip.tower`),
whatever that one's own says.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ovseg_cli.checkpoints.imported_artifacts import (
    ImportedPart,
    imported_artifacts,
    key_map_of,
)
from ovseg_cli.checkpoints.origins import Origin
from ovseg_cli.checkpoints.released_files import read_released
from ovseg_cli.checkpoints.released_systems import SYSTEMS, ReleasedSystem, system_of
from ovseg_cli.errors import CheckpointError, UsageError
from ovseg_cli.progress import progress
from ovseg_cli.recipe import Recipe, load_recipe
from ovseg_cli.run import Run, StageRecord, file_hash, fingerprint_of
from ovseg_cli.stages.recipe_check import check_recipe
from ovseg_cli.storage import write_json, writing_folder

STAGE = "import"
ORIGIN = "origin.json"
BLOCK = 1 << 22


@dataclass(frozen=True)
class ImportReport:
    """What became of a released file.

    Attributes:
        system: the layout that it was read as.
        file: it.
        folder: the run directory, for `--model` and `--run`.
        recipe: the shipped recipe that the run directory's is made of.
        licence: of the weights, a sentence.
        commercial: whether it allows commercial use.
        clip: where CLIP comes from, a sentence.
        artifacts: how many tensors each has.
        unused: names in the file that are no part of the model.
        notes: what else to know, a sentence each.
        seconds: wall-clock time.
    """

    system: str
    file: Path
    folder: Path
    recipe: str
    licence: str
    commercial: bool
    clip: str
    artifacts: dict[str, int]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def finds_masks(self) -> bool:
        """Whether `predict` can use it as it is: not where a file has a CLIP alone."""
        return any(name.startswith("proposals/") for name in self.artifacts)

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {**asdict(self), "file": str(self.file), "folder": str(self.folder)}

    def figures(self) -> dict[str, Any]:
        """The report for people: artifacts with their tensors, and what is not in them."""
        figures: dict[str, Any] = {
            name: f"{count} tensors" for name, count in self.artifacts.items()
        }
        figures |= {"CLIP": self.clip, "recipe": self.recipe}
        if self.unused:
            some = ", ".join(self.unused[:3]) + (", ..." if len(self.unused) > 3 else "")
            figures["not used"] = f"{len(self.unused)} tensors: {some}"
        return figures


def import_model(
    file: Path,
    system: str,
    folder: Path,
    *,
    origin: Origin | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    shown: bool = True,
) -> ImportReport:
    """Reads a released file and writes a run directory, whole or not at all.

    Sizes and architectures that shapes tell, and what the released configuration of such a file
    says, are taken from it; all else is the recipe's, and what `overrides` say comes first.

    Args:
        file: as it was released.
        system: a layout, see `SYSTEMS`.
        folder: new or empty.
        origin: what is known of the file.
        recipe: a shipped recipe's name or a file, instead of the system's own.
        overrides: `section.option=value` on top of the recipe and of what the file tells.
        shown: False for no progress bars.

    Raises:
        UsageError: no such system, or the folder holds something.
        CheckpointError: a file that cannot be read, is of another system or not the one that its
            checksum names; tensors that are missing or of other shapes.
        RecipeError: an option that cannot be used.
        StorageError: no space left, or the folder cannot be written.
    """
    start, origin = time.monotonic(), origin or Origin()
    released = _checked_system(system)
    _check_folder(folder)
    chosen = load_recipe(recipe or released.recipe, overrides)
    check_recipe(chosen)
    state = read_released(file)
    _check_layout(state, system, file)
    sha256 = _checked_hash(file, origin, shown=shown)
    heads = int(chosen.section("proposer").get("heads", 8))
    parts = released.parts(state, heads=heads, source=str(file))
    said = {override.partition("=")[0].strip() for override in overrides}
    chosen, artifacts, clip = imported_artifacts(parts, chosen, source=str(file), said=said)
    check_recipe(chosen)
    key_map, unused = key_map_of(state, artifacts)
    licence = origin.licence or released.licence
    report = ImportReport(
        system=system,
        file=file,
        folder=folder,
        recipe=chosen.name,
        licence=licence.sentence(),
        commercial=licence.commercial,
        clip=clip,
        artifacts={name: len(part.tensors) for name, part in artifacts.items()},
        unused=unused,
        notes=parts.notes,
        seconds=0.0,
    )
    with writing_folder(folder) as temporary:
        _write(Run(temporary), chosen, artifacts, report, sha256, shown=shown)
        write_json(temporary / ORIGIN, _origin_json(report, origin, released, sha256, key_map))
    return replace(report, seconds=round(time.monotonic() - start, 1))


def _checked_system(system: str) -> ReleasedSystem:
    if system not in SYSTEMS:
        raise UsageError(f"--system {system}: no such layout; there are {', '.join(SYSTEMS)}")
    return SYSTEMS[system]


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists; give a new or empty folder")
    if folder.resolve() == Path.cwd():
        raise UsageError(f"{folder}: is the folder that you are in; give a new one in it")


def _check_layout(state: Mapping[str, Tensor], system: str, file: Path) -> None:
    looks = system_of(state)
    if looks is None:
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{file}: is of no released layout that is known here, its tensors are named such as "
            f"{some}; give the file of {SYSTEMS[system].title} as it was released"
        )
    if looks != system:
        raise CheckpointError(
            f"{file}: is no {SYSTEMS[system].title}, it looks like {SYSTEMS[looks].title}; import "
            f"it with --system {looks}"
        )


def _checked_hash(file: Path, origin: Origin, *, shown: bool) -> str:
    found, size = hashlib.sha256(), file.stat().st_size
    with (
        file.open("rb") as content,
        progress(title=f"sha256 of {file.name}", unit="B", total=size, shown=shown) as bar,
    ):
        while block := content.read(BLOCK):
            found.update(block)
            bar.update(len(block))
    digest = found.hexdigest()
    if origin.sha256 not in (None, digest):
        raise CheckpointError(
            f"{file}: its sha256 is {digest} and not {origin.sha256}; fetch it again"
        )
    return digest


def _write(
    run: Run,
    recipe: Recipe,
    artifacts: Mapping[str, ImportedPart],
    report: ImportReport,
    sha256: str,
    *,
    shown: bool,
) -> None:
    run.save_recipe(recipe)
    for name, part in progress(artifacts.items(), title="writing", unit="part", shown=shown):
        kind, _, own = name.partition("/")
        run.save_artifact(kind, own, part.tensors, part.model)
        below = {other: file_hash(run.artifact_path(*other.split("/"))) for other in part.sits_on}
        run.record(
            StageRecord(
                stage=STAGE,
                fingerprint=fingerprint_of(STAGE, sha256, name),
                seconds=0.0,
                artifact=name,
                seed=recipe.seed,
                inputs={**below, f"file/{report.file.name}": sha256[:16]},
                results={"system": report.system, "tensors": len(part.tensors)},
            )
        )


def _origin_json(
    report: ImportReport,
    origin: Origin,
    released: ReleasedSystem,
    sha256: str,
    key_map: dict[str, dict[str, str | None]],
) -> dict[str, Any]:
    return {
        "version": 1,
        "system": report.system,
        "file": report.file.name,
        "bytes": report.file.stat().st_size,
        "sha256": sha256,
        "url": origin.url,
        "entry": origin.entry,
        "licence": asdict(origin.licence or released.licence),
        "imported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "unused": list(report.unused),
        "key_map": key_map,
    }
