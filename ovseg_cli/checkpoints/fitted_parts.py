"""Whether tensors are those of the models that a recipe describes, before these are built."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_cli.checkpoints.proposer_parts import takes_clip
from ovseg_cli.checkpoints.run_parts import encoder_section
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders import MASK_ENCODERS, TunedEncoder
from ovseg_cli.proposers import PROPOSERS
from ovseg_cli.recipe import Recipe, build, choose

NAMED = 3  # tensors that a message names


@dataclass(frozen=True)
class Fit:
    """Tensors beside what a model has.

    Attributes:
        taken: those of the model's names and shapes.
        missing: names of the model that there is no tensor for.
        misshapen: a line each on tensors of another shape than the model's.
        unexpected: names that the model does not have.
    """

    taken: dict[str, Tensor]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]


def fit(tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Fit:
    """Compares names and shapes.

    Args:
        tensors: by name.
        model: its state, on whatever device.
    """
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    misshapen = [
        f"{name} is {_size(tensors[name].shape)} and not {_size(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    return Fit(
        {name: t for name, t in tensors.items() if shapes.get(name) == tuple(t.shape)},
        tuple(name for name in shapes if name not in tensors),
        tuple(misshapen),
        tuple(name for name in tensors if name not in shapes),
    )


def fitted(
    tensors: Mapping[str, Tensor], model: Mapping[str, Tensor], *, source: str, what: str
) -> dict[str, Tensor]:
    """The tensors that a model has, all of them; others are left out.

    Args:
        tensors: by the model's names.
        model: its state, on whatever device.
        source: the file's name, for messages.
        what: the model, for messages.

    Raises:
        CheckpointError: some are missing or of another shape; the first are named, all counted.
    """
    found = fit(tensors, model)
    if not found.missing and not found.misshapen:
        return found.taken
    wrong = []
    if found.missing:
        wrong.append(
            f"{len(found.missing)} of {len(model)} tensors missing: {_some(found.missing)}"
        )
    if found.misshapen:
        wrong.append(f"{len(found.misshapen)} of other shapes: {_some(found.misshapen)}")
    if found.unexpected:
        wrong.append(f"{len(found.unexpected)} unexpected: {_some(found.unexpected)}")
    raise CheckpointError(
        f"{source}: its tensors are not those of {what} ({'; '.join(wrong)}); fetch the file "
        "again, or say what differs with --recipe or --set"
    )


def proposer_state(recipe: Recipe, clip: ClipEncoder) -> dict[str, Tensor]:
    """The names and shapes of the recipe's proposer, on the meta device.

    Args:
        recipe: its section `proposer`.
        clip: the recipe's, for a proposer that is built on one.

    Raises:
        RecipeError: options that cannot be used.
    """
    target, options = choose("proposer", recipe.section("proposer"), PROPOSERS)
    parts = {"clip": clip} if takes_clip(target) else {}
    with torch.device("meta"):
        return build("proposer", options, target, **parts).state_dict()


def tuned_state(recipe: Recipe, clip: ClipEncoder) -> dict[str, Tensor]:
    """The names and shapes of what the recipe's mask encoder has tuned, on the meta device.

    Args:
        recipe: its section `mask_encoder`.
        clip: the recipe's.

    Raises:
        RecipeError: options that cannot be used.
        CheckpointError: a CLIP that the mask encoder cannot be put into.
    """
    target, options = choose("mask_encoder", encoder_section(recipe), MASK_ENCODERS)
    with torch.device("meta"):
        encoder = build("mask_encoder", options, target, clip=clip, seed=recipe.seed)
    return encoder.tuned_tensors() if isinstance(encoder, TunedEncoder) else {}


def _size(shape: tuple[int, ...] | torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
