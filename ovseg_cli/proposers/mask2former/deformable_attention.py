"""Multi-scale deformable attention without a compiled operator.

Zhu et al., Deformable DETR, ICLR 2021, equation 3. Each query reads, per head, a few points of each
level, bilinearly. Four pixels a point, weighted by bilinear weight times attention: that is a
weighted bag of rows of the value table, summed without ever forming the samples. The value maps get
a border of zeros, so that points outside need no test: they are clamped onto it.

Shapes: S pixels of all levels (each is a query), A heads, K points a head over all levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .weighted_bags import weighted_bags


@dataclass(frozen=True)
class SamplingGrid:
    """What sampling needs to know of the levels; all layers share it.

    Attributes:
        sizes: (height, width) of each level.
        x: (S, A, K) a query's own position in the bordered map of a point's level, in pixels.
        y: (S, A, K) likewise.
        largest_x: (A, K) last column of the bordered map.
        largest_y: (A, K) last row of the bordered map.
        row_step: (A, K) distance in the value table of vertical neighbours.
        start: (A, K) table row of the bordered map's first pixel, of the point's head.
        table_pixels: pixels of all bordered maps of an image.
    """

    sizes: tuple[tuple[int, int], ...]
    x: Float[Tensor, "S A K"]
    y: Float[Tensor, "S A K"]
    largest_x: Float[Tensor, "A K"]
    largest_y: Float[Tensor, "A K"]
    row_step: Int[Tensor, "A K"]
    start: Int[Tensor, "A K"]
    table_pixels: int


def sampling_grid(
    sizes: Sequence[tuple[int, int]], heads: int, points: int, *, like: Tensor
) -> SamplingGrid:
    """The grid for queries at every pixel of every level.

    Args:
        sizes: (height, width) of each level.
        heads: attention heads.
        points: sampling points a head and level.
        like: a tensor of the device and floating type wanted.
    """
    pixels = [(height + 2) * (width + 2) for height, width in sizes]
    starts = [sum(pixels[:level]) for level in range(len(sizes))]

    def of_points(values: Tensor) -> Tensor:
        """One value a level -> one a head and point."""
        spread = values.to(like.device).repeat_interleave(points, dim=-1).unsqueeze(-2)
        return spread.expand(*spread.shape[:-2], heads, -1).contiguous()

    heights, widths = torch.tensor(sizes, dtype=like.dtype).T
    centre_x, centre_y = pixel_centres(sizes, dtype=like.dtype)
    row_step = of_points((widths + 2).to(torch.int32)) * heads
    head = torch.arange(heads, dtype=torch.int32, device=like.device)
    return SamplingGrid(
        sizes=tuple(sizes),
        x=of_points(centre_x[:, None] * widths + 0.5),  # a map's first pixel has its centre at 1
        y=of_points(centre_y[:, None] * heights + 0.5),
        largest_x=of_points(widths + 1),
        largest_y=of_points(heights + 1),
        row_step=row_step,
        start=of_points(torch.tensor(starts, dtype=torch.int32)) * heads + head[:, None],
        # A point on the very last corner has neighbours beyond it, of weight zero.
        table_pixels=sum(pixels) + sizes[-1][1] + 3,
    )


def pixel_centres(
    sizes: Sequence[tuple[int, int]], *, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """x and y of the pixels of all levels, one level after the other, as a share of the map."""
    centres = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, dtype=dtype) + 0.5) / width
        centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy")).flatten(1))
    x, y = torch.cat(centres, dim=1)
    return x, y


def sampled_sums(
    value: Float[Tensor, "B S C"],
    offset_x: Float[Tensor, "B S A K"],
    offset_y: Float[Tensor, "B S A K"],
    attention: Float[Tensor, "B S A K"],
    grid: SamplingGrid,
) -> Float[Tensor, "B S C"]:
    """Weighted sums of the value maps at points around each query.

    Args:
        value: (B, S, C) value maps, level after level, heads along the channels.
        offset_x: (B, S, A, K) points relative to the query's own position, in their level's pixels.
        offset_y: (B, S, A, K) likewise.
        attention: (B, S, A, K) weight of each point.
        grid: the grid of the levels' sizes.
    """
    heads, points = grid.start.shape
    x = torch.clamp(offset_x + grid.x, torch.zeros_like(grid.largest_x), grid.largest_x)
    y = torch.clamp(offset_y + grid.y, torch.zeros_like(grid.largest_y), grid.largest_y)
    sums = weighted_bags(
        _value_table(value, grid).view(-1, value.shape[-1] // heads),
        _corner_rows(x.detach(), y.detach(), grid).view(-1, 4 * points),
        _corner_weights(x, y, attention).view(-1, 4 * points),
    )
    return sums.view(value.shape)


def _value_table(value: Tensor, grid: SamplingGrid) -> Tensor:
    batch, _, channels = value.shape
    table = value.new_zeros(batch, grid.table_pixels, channels)
    first = start = 0
    for height, width in grid.sizes:
        last, end = first + height * width, start + (height + 2) * (width + 2)
        bordered = table[:, start:end].view(batch, height + 2, width + 2, channels)
        bordered[:, 1:-1, 1:-1] = value[:, first:last].view(batch, height, width, channels)
        first, start = last, end
    return table


def _corner_rows(x: Tensor, y: Tensor, grid: SamplingGrid) -> Tensor:
    batch, queries, heads, points = x.shape
    rows = y.to(torch.int32).mul_(grid.row_step).add_(x.to(torch.int32), alpha=heads)
    image = torch.arange(batch, dtype=torch.int32, device=x.device).view(-1, 1, 1, 1)
    rows += grid.start + image * (grid.table_pixels * heads)
    corners = rows.new_empty(batch, queries, heads, 4, points)
    corners[..., 0, :] = rows
    torch.add(rows, heads, out=corners[..., 1, :])
    torch.add(rows, grid.row_step, out=corners[..., 2, :])
    torch.add(corners[..., 2, :], heads, out=corners[..., 3, :])
    return corners.clamp_(0, batch * grid.table_pixels * heads - 1)  # a position may be NaN


def _corner_weights(x: Tensor, y: Tensor, attention: Tensor) -> Tensor:
    right, below = x.frac(), attention * y.frac()
    above = attention - below
    above_right, below_right = above * right, below * right
    return torch.stack([above - above_right, above_right, below - below_right, below_right], -2)


def _softmax(logits: Tensor) -> Tensor:
    # Over so few numbers the fused kernel is not vectorised: this takes a fifth of its time.
    exponentials = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


class DeformableAttention(nn.Module):
    """Every pixel of every level attends a few points of each level.

    Args:
        channels: channels of queries and values.
        levels: feature levels.
        heads: attention heads.
        points: sampling points a head and level.
    """

    def __init__(self, channels: int, *, levels: int = 3, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        bias = (directions.view(-1, 1, 1, 2) * steps).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())
        for projection in (self.value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries: Float[Tensor, "B S C"],
        features: Float[Tensor, "B S C"],
        grid: SamplingGrid,
    ) -> Float[Tensor, "B S C"]:
        """What each pixel gathers.

        Args:
            queries: (B, S, C) features with their positions.
            features: (B, S, C) what is read, level after level.
            grid: the grid of the levels' sizes.
        """
        shape = (*queries.shape[:2], self.heads, self.levels * self.points)
        # x and y apart: the projections' rows alternate between them.
        weight_x, weight_y = self.offsets.weight.view(-1, 2, queries.shape[-1]).unbind(1)
        bias_x, bias_y = self.offsets.bias.view(-1, 2).unbind(1)
        attention = _softmax(self.attention(queries).view(shape))
        offset_x = F.linear(queries, weight_x, bias_x).view(shape)
        offset_y = F.linear(queries, weight_y, bias_y).view(shape)
        sums = sampled_sums(self.value(features), offset_x, offset_y, attention, grid)
        output: Tensor = self.output(sums)
        return output
