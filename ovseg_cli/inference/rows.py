"""The best of many rows, and other work on rows whose length is a number of pixels."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

GROUP = 16  # rows whose maximum is taken before any index is looked for
SURELY = 1 - 1e-4  # rounding never loses a winner by this much


def contenders(highest: Float[Tensor, " N"], lowest: Float[Tensor, " N"]) -> Int[Tensor, " M"]:
    """The rows that can be the best, as none is below its lowest or above its highest value.

    Args:
        highest: (N,) no value of the row is above it.
        lowest: (N,) none is below it.
    """
    beaten = highest < SURELY * lowest.max()
    return (~beaten).nonzero()[:, 0]


def best_rows(values: Float[Tensor, "N P"]) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"]]:
    """The highest value (P,) of each column of (N, P), and its first row.

    In two rounds, first among groups of rows: a maximum costs a tenth of what its place costs.

    Args:
        values: (N, P).
    """
    count, columns = values.shape
    padded = F.pad(values, (0, 0, 0, -count % GROUP), value=float("-inf"))
    groups = padded.view(-1, GROUP, columns)
    group = groups.amax(1).max(0).indices
    best, row = groups.gather(0, group.expand(1, GROUP, columns))[0].max(0)
    return best, group * GROUP + row


def counts(inside: Bool[Tensor, "N P"]) -> Int[Tensor, " N"]:
    """How many of each row are True; bytes are summed faster than truths.

    Args:
        inside: (N, P).
    """
    return inside.view(torch.uint8).sum(1, dtype=torch.int32)


def rows_of(
    values: Float[Tensor, "N r c"], of: Int[Tensor, " N"], wanted: Int[Tensor, " M"]
) -> Float[Tensor, "M r c"]:
    """The rows for some of the numbers that there are rows for.

    Args:
        values: (N, r, c) a row for each of `of`.
        of: (N,) numbers, ascending.
        wanted: (M,) some of them, ascending.
    """
    return values if len(of) == len(wanted) else values[torch.searchsorted(of, wanted)]
