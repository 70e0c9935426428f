"""The masks of another run directory, to tell what classification alone is worth.

FC-CLIP (Yu et al., NeurIPS 2023), appendix, table 9: two CLIPs name the same masks.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ovseg_cli.checkpoints.proposer_parts import (
    proposals_name,
    trained_proposer_of,
    training_vocabulary,
)
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import RunError
from ovseg_cli.proposers import Proposer, ReadsWords
from ovseg_cli.recipe import build
from ovseg_cli.run import Run, file_hash
from ovseg_cli.structures import FramedImage, Proposals, Vocabulary


class MasksAlone:
    """A proposer's masks and object scores, without what its head says of their classes."""

    def __init__(self, proposer: Proposer) -> None:
        """Takes a proposer of any kind.

        Args:
            proposer: reads images with its own CLIP, if it has one.
        """
        self.proposer = proposer

    def propose(self, framed: FramedImage) -> Proposals:
        """Masks and object scores of one image."""
        found = self.proposer.propose(replace(framed, encoded=None))
        return Proposals(found.mask_logits, found.frame, found.scores)


@dataclass(frozen=True)
class GivenMasks:
    """Where masks come from, and how the images that they lie in are framed.

    Attributes:
        proposer: finds them.
        framing: of the run directory's recipe.
        training: what the proposer was trained on, where that is known.
        name: of the run directory and its proposals, for a folder of results.
        inputs: hashes by artifact.
    """

    proposer: MasksAlone
    framing: FramingOptions
    training: Vocabulary | None
    name: str
    inputs: dict[str, str]


def given_masks(path: Path, *, device: torch.device, name: str | None = None) -> GivenMasks:
    """The proposer of a run directory, with its own recipe and CLIP.

    Args:
        path: of the run directory.
        device: where to compute.
        name: of its proposals; None for those that its recipe names, else its newest.

    Raises:
        RunError: it is no run directory, has no proposals, or such as depend on words.
        RecipeError: its recipe has an option that cannot be used.
        CheckpointError: its weights are damaged or of another model.
    """
    run = Run(path)
    if not (path / "recipe.yaml").is_file():
        raise RunError(
            f"[evaluate] masks_from: {path}: no recipe.yaml there; name the run directory of a "
            "trained proposer"
        )
    recipe = run.recipe([] if name is None else [f"artifacts.proposals={name}"])
    proposals = proposals_name(run, recipe)
    proposer = trained_proposer_of(run, recipe, device=device)
    if isinstance(proposer, ReadsWords):
        raise RunError(
            f"[evaluate] masks_from: {path}: its masks depend on the words, which its own CLIP "
            "reads; name a run directory whose proposer finds the same masks for all words"
        )
    return GivenMasks(
        MasksAlone(proposer),
        build("framing", recipe.section("framing"), FramingOptions),
        training_vocabulary(run, recipe),
        f"{path.resolve().name}.{proposals}",
        {f"{path}/proposals/{proposals}": file_hash(run.artifact_path("proposals", proposals))},
    )
