"""A run directory: its recipe, its manifest, its artifacts, who writes there."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OvsegError
from ..run_lock import lock_holder
from .environment import import_problem
from .finding import Finding, problem, warning

if TYPE_CHECKING:
    from ..run import Run

DEFAULT = "run"
NAME = "run directory"
KINDS = ("clip", "proposals")


def run_directory(folder: Path, run: Path | None) -> list[Finding]:
    """What is there, and what is damaged.

    Args:
        folder: where one is looked for that is not named.
        run: the run directory; None for `run` in the folder, if there is one.
    """
    path = run or folder / DEFAULT
    if not path.is_dir():
        if run is None:
            return [Finding(NAME, f"none at {path}")]
        return [problem(NAME, f"{path}: no such folder", "ovseg train-clip --run makes one")]
    reason = import_problem("ovseg_cli.run")
    if reason is not None:
        return [Finding(NAME, f"{path}: not looked at, as torch does not load")]
    return [_contents(path), *_damage(path), *_lock(path), *_left_behind(path)]


def _contents(path: Path) -> Finding:
    from ..run import Run

    run = Run(path)
    try:
        run.recipe()
        stages = [record["stage"] for record in run.manifest()]
    except OvsegError as error:
        mend = "see there; --recipe names another recipe, and the stages can be run again"
        return problem(NAME, str(error), mend)
    names = [f"{file.parent.name}/{file.stem}" for file in _artifacts(path)]
    return Finding(NAME, f"{path}: {len(stages)} stages done; {', '.join(names) or 'no artifact'}")


def _damage(path: Path) -> list[Finding]:
    """Artifacts of which a file is damaged or missing, though the manifest has it."""
    from ..run import MAKERS, Run

    found = []
    there = _artifacts(path)
    for kind, name in sorted({(file.parent.name, file.stem) for file in there} | _recorded(path)):
        reason = _reason(Run(path), kind, name)
        if reason is not None:
            maker = MAKERS.get((kind, name)) or MAKERS.get((kind, name.partition("-")[0]))
            again = f"run '{maker} --run {path} --restart'" if maker else "make it again"
            found.append(problem(f"artifact {kind}/{name}", reason, again))
    return found


def _reason(run: "Run", kind: str, name: str) -> str | None:
    from safetensors import SafetensorError, safe_open

    file = run.artifact_path(kind, name)
    if not file.is_file():
        return "the manifest has it, and it is not there"
    try:
        with safe_open(file, framework="pt") as tensors:  # reads the head, and compares the size
            tensors.keys()
    except (SafetensorError, OSError) as error:
        return f"{file.name}: damaged ({error})"
    if not file.with_suffix(".json").is_file():
        return f"{file.stem}.json, which describes the model, is missing"
    try:
        run.artifact_model(kind, name)
    except OvsegError as error:
        return str(error)
    return None


def _artifacts(path: Path) -> list[Path]:
    files = (file for kind in KINDS for file in sorted((path / kind).glob("*.safetensors")))
    return [file for file in files if not file.name.startswith(".")]


def _recorded(path: Path) -> set[tuple[str, str]]:
    from ..run import Run

    try:
        names = [str(record.get("artifact") or "") for record in Run(path).manifest()]
    except OvsegError:
        return set()  # said already
    return {(kind, name) for kind, _, name in (n.partition("/") for n in names) if kind in KINDS}


def _lock(path: Path) -> list[Finding]:
    file = path / ".lock"
    holder = lock_holder(file)
    if holder is None:
        return []
    who = f"process {holder.pid} on {holder.host}"
    if holder.is_gone:
        found = f"left by {who}, which is gone"
        return [warning("lock", found, "nothing, the next command replaces it")]
    return [warning("lock", f"{who} is writing there", f"wait, or delete {file} if it is gone")]


def _left_behind(path: Path) -> list[Finding]:
    """Halves of files that a killed process left; nothing reads them."""
    files = [file for file in path.rglob(".*.tmp*") if file.is_file()]
    if not files or lock_holder(path / ".lock") is not None:
        return []
    size = sum(file.stat().st_size for file in files) / 1e6
    found = f"{len(files)} unfinished files of a killed process, {size:.1f} MB"
    return [warning("unfinished files", found, f"delete them: {files[0]}")]
