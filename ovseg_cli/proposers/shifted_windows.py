"""Attention in windows that shift, the block that Swin backbones are made of.

Liu et al., Swin Transformer, ICCV 2021, section 3.2. Windows are filled up with zeros, as released
before they are shifted; timm's Swin fills up after, so that its borders differ where the windows do
not fit.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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
