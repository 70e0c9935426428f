"""What an evaluation may take from the annotations: the masks, or the classes of the proposals."""

from dataclasses import replace

from ovseg_cli.errors import UsageError
from ovseg_cli.recipe import Recipe

ORACLES = ("masks", "classes")


def with_oracle(recipe: Recipe, oracle: str) -> Recipe:
    """The recipe with the option that `--oracle` stands for.

    Args:
        recipe: of the run.
        oracle: `masks` sets `evaluate.oracle_masks`; `classes` sets `evaluate.oracle_classes` to
            `iou`, unless the recipe says `label` there.

    Raises:
        UsageError: it is neither.
    """
    section = recipe.section("evaluate")
    if oracle == "masks":
        section["oracle_masks"] = True
    elif oracle == "classes":
        section["oracle_classes"] = section.get("oracle_classes") or "iou"
    else:
        raise UsageError(f"--oracle {oracle}: there are {' and '.join(ORACLES)}")
    return replace(recipe, sections={**recipe.sections, "evaluate": section})
