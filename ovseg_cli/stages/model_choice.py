"""Which model answers to --model and --run: a run directory, or the model in the box."""

from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import CheckpointError, RunError, UsageError
from ovseg_cli.run import Run

TINY = Path(__file__).parent.parent / "assets" / "tiny"
TINY_NOTICE = (
    "using the model in the box (--model tiny): it was trained on drawn shapes and knows nothing "
    "of photographs; give a --run directory of your own for anything else"
)
TINY_LABELS = "shapes"
DEFAULT_RUN = Path("run")


@dataclass(frozen=True)
class ModelChoice:
    """A model's folder; `is_tiny` where it is the one in the box."""

    run: Run
    is_tiny: bool


def choose_model(model: str | None, run: Path) -> ModelChoice:
    """`tiny` or a run directory by name; without a name, `run`.

    Where nobody named a run directory and ./run is none, the model in the box answers.

    Args:
        model: what --model says.
        run: what --run says.

    Raises:
        UsageError: there is no model of that name.
        RunError: a run directory was named that is none.
        CheckpointError: the model in the box is not in this installation.
    """
    if model == "tiny" or (model is None and run == DEFAULT_RUN and not _is_run(run)):
        return _tiny()
    if model is not None and not Path(model).is_dir():
        raise UsageError(f"--model {model}: no such model; give a run directory, or 'tiny'")
    folder = run if model is None else Path(model)
    if not _is_run(folder):
        raise RunError(
            f"{folder}: no run directory, there is no recipe.yaml in it; give another, or "
            "--model tiny for the model in the box"
        )
    return ModelChoice(Run(folder), False)


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def _tiny() -> ModelChoice:
    if not _is_run(TINY):
        raise CheckpointError(
            f"{TINY}: the model in the box is missing; install ovseg again, or train one with "
            "recipes/tiny/masqclip.sh"
        )
    return ModelChoice(Run(TINY), True)
