"""Which model answers to --model and --run: a run directory, or the model in the box."""

from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import CheckpointError, UsageError
from ovseg_cli.run import Run

TINY = Path(__file__).parent.parent / "assets" / "tiny"
TINY_NOTICE = (
    "using the model in the box (--model tiny): it was trained on drawn shapes and knows nothing "
    "of photographs; give a --run directory of your own for anything else"
)
TINY_LABELS = "shapes"


@dataclass(frozen=True)
class ModelChoice:
    """A model's folder; `is_tiny` where it is the one in the box."""

    run: Run
    is_tiny: bool


def choose_model(model: str | None, run: Path) -> ModelChoice:
    """`tiny` or a run directory by name; without one, `run` if it is there, else the tiny model.

    Args:
        model: what --model says.
        run: what --run says.

    Raises:
        UsageError: there is no model of that name.
        CheckpointError: the model in the box is not in this installation.
    """
    if model is None:
        return ModelChoice(Run(run), False) if (run / "recipe.yaml").is_file() else _tiny()
    if model == "tiny":
        return _tiny()
    if not Path(model).is_dir():
        raise UsageError(f"--model {model}: no such model; give a run directory, or 'tiny'")
    return ModelChoice(Run(Path(model)), False)


def _tiny() -> ModelChoice:
    if not (TINY / "recipe.yaml").is_file():
        raise CheckpointError(
            f"{TINY}: the model in the box is missing; install ovseg again, or train one with "
            "recipes/tiny/masqclip.sh"
        )
    return ModelChoice(Run(TINY), True)
