"""Swin backbones: attention in windows that shift, and maps at four strides.

Liu et al., Swin Transformer, ICCV 2021, as backbones of dense prediction: any image size, and a
norm on each stage's output.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import RecipeError
from .shifted_windows import SwinBlock

PATCH = 4


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
