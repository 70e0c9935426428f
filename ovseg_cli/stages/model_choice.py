"""Which model answers to --model and --run: a run directory, a name, or the one in the box."""

from dataclasses import dataclass, replace
from pathlib import Path

from ovseg_cli.checkpoints.catalogue import (
    DEFAULT_MODEL,
    TINY,
    TINY_NAME,
    CatalogueEntry,
    catalogue,
)
from ovseg_cli.errors import (
    CheckpointError,
    OvsegError,
    RecipeError,
    RunError,
    StorageError,
    UsageError,
)
from ovseg_cli.proposers import READY_PROPOSERS
from ovseg_cli.run import Run

from .models_here import hub_is_offline, is_run_directory, missing_parts
from .pull_model import Consent, nobody, pull_model, size_of

TINY_NOTICE = (
    "using the model in the box (--model tiny): it was trained on drawn shapes and knows nothing "
    "of photographs"
)
TINY_LABELS = "shapes"
DEFAULT_RUN = Path("run")


@dataclass(frozen=True)
class ModelChoice:
    """A model's folder; `is_tiny` where it is the one in the box, `notice` what to know of it."""

    run: Run
    is_tiny: bool
    notice: str | None = None


def choose_model(
    model: str | None, run: Path, *, consent: Consent = nobody, has_words: bool = True
) -> ModelChoice:
    """A run directory, `tiny` or a name of the catalogue; without a name, `run`.

    Where nobody named a model and ./run holds no segmenter, the pretrained default answers if it is
    here or somebody agrees to fetch it, else the model in the box. Nothing is fetched, and no
    connection tried, without consent.

    Args:
        model: what --model says.
        run: what --run says.
        consent: is asked before anything is downloaded.
        has_words: whether there are words to look for; without, the model in the box has its own.

    Raises:
        UsageError: there is no model of that name, or nobody agreed to fetch it.
        InputError: the model of that name cannot be fetched.
        RunError: a run directory was named that is none.
        CheckpointError: the model in the box is not in this installation.
    """
    if model is not None:
        return _named(model, consent)
    if run != DEFAULT_RUN or _holds_segmenter(run):
        return _run_directory(run)
    if not has_words:
        return _tiny("without --labels it looks for the words it knows")
    choice = _default(consent)
    why = f"; {run} has no proposals yet" if is_run_directory(run) else ""
    return replace(choice, notice=f"{choice.notice}{why}")


def _named(model: str, consent: Consent) -> ModelChoice:
    if model == TINY_NAME:
        return _tiny()
    if Path(model).is_dir():
        return _run_directory(Path(model))
    entry = catalogue().get(model)
    if entry is None:
        raise UsageError(
            f"--model {model}: no such model; give a run directory, 'tiny', or a name of "
            "'ovseg models list'"
        )
    if entry.kind in ("clip", "data"):
        raise UsageError(f"--model {model}: a {entry.kind} alone finds no masks; {entry.about}")
    return ModelChoice(Run(pull_model(model, consent=consent)), False)


def _run_directory(folder: Path) -> ModelChoice:
    if not is_run_directory(folder):
        raise RunError(
            f"{folder}: no run directory, there is no recipe.yaml in it; give another, or "
            "--model tiny for the model in the box"
        )
    return ModelChoice(Run(folder), False)


def _holds_segmenter(folder: Path) -> bool:
    """False where there is no run directory, or one whose proposals are still to be trained."""
    if not is_run_directory(folder):
        return False
    try:
        proposer = Run(folder).recipe().section("proposer").get("name")
    except RecipeError:
        return True  # its own message is the one to see
    return proposer in READY_PROPOSERS or any((folder / "proposals").glob("*.safetensors"))


def _default(consent: Consent) -> ModelChoice:
    """The pretrained default where it is here or may be fetched; else the one in the box."""
    entry = catalogue()[DEFAULT_MODEL]
    missing = missing_parts(entry)
    if missing and hub_is_offline():
        return _tiny(f"{entry.name} is not here, and HF_HUB_OFFLINE is set")
    if missing and not consent(f"{entry.name}: download {size_of(missing)}?"):
        return _tiny(
            f"for photographs, 'ovseg models pull {entry.name}' or --yes downloads "
            f"{size_of(missing)}"
        )
    try:
        folder = pull_model(entry.name, consent=lambda question: True)
    except StorageError:
        raise
    except OvsegError as error:
        return _tiny(f"{entry.name} cannot be had: {error}")
    return ModelChoice(Run(folder), False, _default_notice(entry))


def _default_notice(entry: CatalogueEntry) -> str:
    return f"using {entry.name}: {entry.about}; --model or --run takes another"


def _tiny(why: str | None = None) -> ModelChoice:
    if not is_run_directory(TINY):
        raise CheckpointError(
            f"{TINY}: the model in the box is missing; install ovseg again, or train one with "
            "recipes/tiny/masqclip.sh"
        )
    reason = why or "give a --run directory of your own for anything else"
    return ModelChoice(Run(TINY), True, f"{TINY_NOTICE}; {reason}")
