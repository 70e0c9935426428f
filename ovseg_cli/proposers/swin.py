"""Swin backbones: attention in windows that shift, and maps at four strides.

Liu et al., Swin Transformer, ICCV 2021, as backbones of dense prediction: any image size (windows
are filled up with zeros), and a norm on each stage's output. As released, windows are filled up
before they are shifted; timm's Swin fills up after, so that its borders differ where the windows do
not fit.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import RecipeError

PATCH = 4
_APART = -100.0  # added to the logits of pixels that only the shift has brought together


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position.

    Args:
        channels: of the tokens.
        heads: attention heads.
        window: side of the square windows.
    """

    position_index: Tensor

    def __init__(self, channels: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.position_biases = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_biases, std=0.02)
        self.register_buffer("position_index", _relative_positions(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(
        self, windows: Float[Tensor, "B R S C"], apart: Float[Tensor, "R 1 S S"] | None
    ) -> Float[Tensor, "B R S C"]:
        """Attended tokens.

        Args:
            windows: (B, R, S, C) R windows of S tokens of each image.
            apart: (R, 1, S, S) what is added to the logits; None for nothing.
        """
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in self.qkv(windows).chunk(3, dim=-1)
        )  # (B, R, heads, S, C / heads)
        tokens = self.window**2
        biases = self.position_biases[self.position_index].view(tokens, tokens, self.heads)
        biases = biases.permute(2, 0, 1)
        bias = (biases if apart is None else biases + apart).to(queries.dtype)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        output: Tensor = self.output(attended.transpose(2, 3).flatten(3))
        return output


class SwinBlock(nn.Module):
    """Window attention, then a feed-forward network; norms before, residual sums after.

    Args:
        channels: of the tokens.
        heads: attention heads.
        window: side of the square windows.
        shift: by how much the windows are moved, 0 for not.
        drop_path: share of the images whose residual is left out while training.
    """

    def __init__(
        self, channels: int, *, heads: int, window: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads=heads, window=window)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Float[Tensor, "B h w C"]) -> Float[Tensor, "B h w C"]:
        """The tokens after the block.

        Args:
            tokens: (B, h, w, C) of any size.
        """
        tokens = tokens + self._kept(self._attended(self.attention_norm(tokens)))
        return tokens + self._kept(self.feedforward(self.feedforward_norm(tokens)))

    def _attended(self, tokens: Tensor) -> Tensor:
        height, width = tokens.shape[1:3]
        down, right = -height % self.window, -width % self.window
        padded = F.pad(tokens, (0, 0, 0, right, 0, down))
        size, apart = (height + down, width + right), None
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), dims=(1, 2))
            apart = _apart(size, self.window, self.shift, like=tokens)
        attended = _image(self.attention(_windows(padded, self.window), apart), size)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(1, 2))
        return attended[:, :height, :width]

    def _kept(self, residual: Tensor) -> Tensor:
        """Huang et al., Deep Networks with Stochastic Depth, ECCV 2016."""
        if not self.training or not self.drop_path:
            return residual
        kept = residual.new_empty(len(residual), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return residual * kept / (1 - self.drop_path)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels.

    The neighbours' channels are put together column by column, (0, 0), (1, 0), (0, 1), (1, 1) as
    (row, column), as in the released weights.

    Args:
        channels: of the tokens that come in.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Float[Tensor, "B h w C"]) -> Float[Tensor, "B h2 w2 C2"]:
        """Half as many tokens in each direction; an odd side is filled up with zeros."""
        height, width = tokens.shape[1:3]
        even = F.pad(tokens, (0, 0, 0, width % 2, 0, height % 2))
        neighbours = [even[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(neighbours, dim=-1)))
        return merged


class SwinStage(nn.Module):
    """Blocks of one resolution, whose every second one shifts its windows.

    Args:
        channels: of the tokens inside.
        heads: attention heads.
        window: side of the square windows.
        drop_paths: of each block.
        merges: whether the tokens that come in are those of the stage before, to be merged.
    """

    def __init__(
        self, channels: int, *, heads: int, window: int, drop_paths: Sequence[float], merges: bool
    ) -> None:
        super().__init__()
        self.merge = PatchMerging(channels // 2) if merges else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    channels,
                    heads=heads,
                    window=window,
                    shift=window // 2 if index % 2 else 0,
                    drop_path=drop_path,
                )
                for index, drop_path in enumerate(drop_paths)
            )
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, tokens: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B h w C"]:
        """The stage's tokens, before the norm that its map has."""
        inside: Tensor = self.blocks(self.merge(tokens))
        return inside


class Swin(nn.Module):
    """A Swin without its classifier.

    Args:
        depths: blocks in each of the four stages.
        heads: attention heads in each.
        window: side of the square windows, in tokens.
        width: channels of the first stage, doubled from stage to stage.
        drop_path: share of left-out residuals of the last block while training, from 0 of the first
            one on.

    Raises:
        RecipeError: a width that the heads cannot share out.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        width: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads[0]:
            raise RecipeError(
                f"[proposer] backbone_width: {width} is not a multiple of the {heads[0]} heads of "
                "this Swin's first stage; choose one that is"
            )
        self.channels = tuple(width * 2**stage for stage in range(4))
        self.embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.embed_norm = nn.LayerNorm(width)
        rates = [drop_path * index / max(1, sum(depths) - 1) for index in range(sum(depths))]
        for stage, depth in enumerate(depths):
            first = sum(depths[:stage])
            layer = SwinStage(
                self.channels[stage],
                heads=heads[stage],
                window=window,
                drop_paths=rates[first : first + depth],
                merges=stage > 0,
            )
            setattr(self, f"layer{stage + 1}", layer)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features at strides 4, 8, 16 and 32 of normalised images."""
        tokens = self.embed_norm(self.embed(images).permute(0, 2, 3, 1))  # (B, h, w, C)
        levels = []
        for stage in range(len(self.channels)):
            layer = self.get_submodule(f"layer{stage + 1}")
            assert isinstance(layer, SwinStage)
            tokens = layer(tokens)
            levels.append(layer.norm(tokens).permute(0, 3, 1, 2))  # channels last in memory
        return levels


class Architecture(NamedTuple):
    """What a Swin's name stands for; see `Swin`."""

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int


SwinName = Literal["swin_tiny", "swin_small", "swin_base", "swin_large"]
SWINS: dict[str, Architecture] = {
    "swin_tiny": Architecture(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_small": Architecture(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "swin_base": Architecture(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin_large": Architecture(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


def swin(name: str, *, width: int | None = None, drop_path: float = 0.0) -> Swin:
    """A Swin by its name.

    Args:
        name: a `SwinName`; swin_base and swin_large have the windows of 12 tokens of the models for
            384 pixels.
        width: channels of the first stage; None for the paper's.
        drop_path: see `Swin`.

    Raises:
        RecipeError: a width that the heads cannot share out.
    """
    usual, depths, heads, window = SWINS[name]
    return Swin(
        depths=depths, heads=heads, window=window, width=width or usual, drop_path=drop_path
    )


def _relative_positions(window: int) -> Tensor:
    """(S * S,) the index of the relative position of every pair of a window's tokens."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (S, 2)
    offsets = places[:, None] - places[None] + window - 1
    return (offsets[..., 0] * (2 * window - 1) + offsets[..., 1]).flatten()


def _windows(tokens: Float[Tensor, "B h w C"], window: int) -> Float[Tensor, "B R S C"]:
    rows, columns = tokens.shape[1] // window, tokens.shape[2] // window
    split = tokens.unflatten(2, (columns, window)).unflatten(1, (rows, window))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _image(windows: Float[Tensor, "B R S C"], size: tuple[int, int]) -> Float[Tensor, "B h w C"]:
    window = round(windows.shape[2] ** 0.5)
    rows, columns = size[0] // window, size[1] // window
    split = windows.unflatten(1, (rows, columns)).unflatten(3, (window, window))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _apart(
    size: tuple[int, int], window: int, shift: int, *, like: Tensor
) -> Float[Tensor, "R 1 S S"]:
    """A large negative number for pairs of a shifted window that were not neighbours before."""
    parts = [torch.zeros(side, dtype=torch.int64, device=like.device) for side in size]
    for along in parts:
        along[-window:-shift], along[-shift:] = 1, 2
    regions = 3 * parts[0][:, None] + parts[1][None]
    of_windows = _windows(regions[None, ..., None].float(), window)[0, ..., 0]  # (R, S)
    differs = of_windows[:, None] != of_windows[:, :, None]
    return _APART * differs[:, None].to(like.dtype)
