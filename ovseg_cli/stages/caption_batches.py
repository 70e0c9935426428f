"""The batches of `train-clip`: phases of image-caption pairs, easy ones first."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ovseg_cli.clip.pair_encoder import tokenize_captions
from ovseg_cli.datasets.captions import CaptionedImages
from ovseg_cli.errors import RecipeError
from ovseg_cli.training import distributed


@dataclass(frozen=True)
class PhaseOptions:
    """A part of the training.

    Attributes:
        split: whose captions and images.
        size: side of the squares that the image tower is shown, in pixels: a multiple of the
            patch, at most the tower's size.
        share: of the steps, in any unit.
        side: images are resized to this side first and a random square of `size` is taken;
            0 is `size` itself.
        batch_size: images a step, over all processes.
    """

    split: str
    size: int
    share: float = 1.0
    side: int = 0
    batch_size: int = 128


@dataclass(frozen=True)
class CaptionBatch:
    """Images with the texts that are true of them.

    Attributes:
        pixels: (B, 3, S, S) RGB.
        corner: (row, column) in patches of the place that the images have in the tower's square.
        tokens: (T, context length) of the texts.
        image_texts: (B, P) ids of each image's texts.
        text_ids: (T,) the id of each row of tokens, -1 for a row that only fills up.
    """

    pixels: UInt8[Tensor, "B 3 S S"]
    corner: tuple[int, int]
    tokens: Int[Tensor, "T context"]
    image_texts: Int[Tensor, "B P"]
    text_ids: Int[Tensor, " T"]


def check_phases(phases: Sequence[PhaseOptions], *, image_size: int, patch_size: int) -> None:
    """Checks that every phase fits the image tower and the number of processes.

    Args:
        phases: of the recipe.
        image_size: side of the tower's square in pixels.
        patch_size: in pixels.

    Raises:
        RecipeError: one does not fit.
    """
    if not phases:
        raise RecipeError("[train_clip] phases: name at least one")
    for i, phase in enumerate(phases):
        where = f"[train_clip] phases[{i}]"
        if not 0 < phase.size <= image_size or phase.size % patch_size:
            raise RecipeError(
                f"{where} size: {phase.size} is not a multiple of {patch_size} up to {image_size}"
            )
        if 0 < phase.side < phase.size:
            raise RecipeError(f"{where} side: {phase.side} is less than the size {phase.size}")
        if phase.batch_size < 2 or phase.batch_size % distributed.world_size():
            raise RecipeError(
                f"{where} batch_size: {phase.batch_size} is not at least 2 and a multiple of "
                f"{distributed.world_size()} processes"
            )
        if phase.share <= 0:
            raise RecipeError(f"{where} share: {phase.share} is not positive")


class PhasedBatches:
    """The batch of every step, a function of seed and step; each process takes its part of it."""

    def __init__(
        self,
        phases: Sequence[PhaseOptions],
        root: Path,
        *,
        steps: int,
        captions_per_image: int,
        rehearsal: float,
        grid: int,
        patch_size: int,
        context_length: int,
        seed: int,
    ) -> None:
        """Reads the captions of all phases.

        Args:
            phases: in their order.
            root: the dataset's folder.
            steps: of all phases together.
            captions_per_image: how many of an image's captions a batch has.
            rehearsal: chance that a step of a later phase takes an earlier one's batch.
            grid: patches on a side of the image tower's square.
            patch_size: in pixels.
            context_length: of the text tower.
            seed: of the whole order.

        Raises:
            InputError: captions that cannot be read.
        """
        self._phases, self._seed, self._rehearsal = tuple(phases), seed, rehearsal
        self._captions_per_image = captions_per_image
        self._grid, self._patch_size = grid, patch_size
        shares = list(accumulate(phase.share for phase in phases))
        self._ends = [steps * share / shares[-1] for share in shares]
        self._images = [
            CaptionedImages(root, phase.split, side=max(phase.side, phase.size)) for phase in phases
        ]
        self._tokens = [
            tokenize_captions(images.texts, context_length=context_length)
            for images in self._images
        ]

    def batch_at(self, step: int) -> CaptionBatch:
        """The batch of a step, or this process's part of it."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        number = self._phase(step, generator)
        phase, images, tokens = (
            self._phases[number],
            self._images[number],
            self._tokens[number],
        )
        indices = torch.randint(len(images), (phase.batch_size,), generator=generator)
        texts = [self._captions(images.captions[i], generator) for i in indices.tolist()]
        rows = slice(distributed.rank(), None, distributed.world_size())
        image_texts = torch.tensor(texts)[rows]
        text_ids = _padded(torch.unique(image_texts), image_texts.numel())
        return CaptionBatch(
            pixels=self._cut(images.pixels(indices[rows].tolist()), phase.size, generator),
            corner=self._corner(phase.size, generator),
            tokens=tokens[text_ids.clamp(min=0)],
            image_texts=image_texts,
            text_ids=text_ids,
        )

    def _phase(self, step: int, generator: torch.Generator) -> int:
        current = next((i for i, end in enumerate(self._ends) if step < end), len(self._ends) - 1)
        chance, earlier = torch.rand(2, generator=generator).tolist()
        return int(earlier * current) if chance < self._rehearsal else current

    def _captions(self, captions: tuple[int, ...], generator: torch.Generator) -> list[int]:
        order = torch.randperm(len(captions), generator=generator).tolist()
        return [captions[order[i % len(order)]] for i in range(self._captions_per_image)]

    def _cut(self, pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        spare = pixels.shape[-1] - size
        top, left = torch.randint(spare + 1, (2,), generator=generator).tolist()
        return pixels[..., top : top + size, left : left + size]

    def _corner(self, size: int, generator: torch.Generator) -> tuple[int, int]:
        spare = self._grid - size // self._patch_size
        row, column = torch.randint(spare + 1, (2,), generator=generator).tolist()
        return row, column


def _padded(text_ids: Tensor, length: int) -> Tensor:
    """Of one length in all processes; a single process needs none."""
    if distributed.world_size() == 1:
        return text_ids
    return torch.cat([text_ids, text_ids.new_full((length - len(text_ids),), -1)])
