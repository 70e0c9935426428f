"""Where masks are compared: points drawn from (seed, step, image), or given."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .masks import uncertain_points


@runtime_checkable
class Points(Protocol):
    """Where to compare the masks of one prediction of a batch."""

    def for_matching(self) -> Float[Tensor, "B P 2"]:
        """One set an image, shared by all its masks."""
        ...

    def for_losses(
        self, mask_logits: Float[Tensor, "N h w"], counts: Sequence[int]
    ) -> Float[Tensor, "N P 2"]:
        """One set a matched mask, in the order of the images, `counts` masks in each."""
        ...


class GivenPoints:
    """Prescribed points.

    Args:
        matching: (B, P, 2) x and y, 0 to 1, one set an image.
        losses: (N, P, 2) one set a matched mask.
    """

    def __init__(self, matching: Float[Tensor, "B P 2"], losses: Float[Tensor, "N P 2"]) -> None:
        self._matching, self._losses = matching, losses

    def for_matching(self) -> Float[Tensor, "B P 2"]:
        return self._matching

    def for_losses(
        self, mask_logits: Float[Tensor, "N h w"], counts: Sequence[int]
    ) -> Float[Tensor, "N P 2"]:
        return self._losses


class RandomPoints:
    """Random points, most of those for the losses where the mask is least certain.

    An image's points depend on the seeds and on nothing else: not on the process, nor on the other
    images of its batch.

    Args:
        seeds: one a image.
        count: points a mask.
        oversample: candidates a point, from which the least certain are taken.
        importance: share of the points taken so; the others are uniform.
        device: where the points are wanted and drawn.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        count: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        device: torch.device | None = None,
    ) -> None:
        self._count, self._oversample, self._importance = count, oversample, importance
        self._generators = [torch.Generator(device or "cpu").manual_seed(seed) for seed in seeds]

    def for_matching(self) -> Float[Tensor, "B P 2"]:
        return self._drawn([1] * len(self._generators), self._count)

    def for_losses(
        self, mask_logits: Float[Tensor, "N h w"], counts: Sequence[int]
    ) -> Float[Tensor, "N P 2"]:
        uncertain = int(self._importance * self._count)
        candidates = int(self._oversample * self._count)
        drawn = self._drawn(counts, candidates + self._count - uncertain)
        return uncertain_points(
            mask_logits, drawn[:, :candidates], drawn[:, candidates:], count=uncertain
        )

    def _drawn(self, counts: Sequence[int], points: int) -> Tensor:
        return torch.cat(
            [
                torch.rand(masks, points, 2, generator=generator, device=generator.device)
                for masks, generator in zip(counts, self._generators, strict=True)
            ]
        )
