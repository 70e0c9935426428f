"""What MasQ-Tuning may train in a layer: projections of its own for queries, keys or values.

MasQCLIP (Xu et al., ICCV 2023), section 3.3 and table 5. Only the queries are in the released code,
where they begin random; how the paper's other projections begin is in neither.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ovseg_cli.clip.encoder import ClipEncoder

Variant = Literal["freeze", "q", "k", "v", "qk", "qkv", "clip"]
Init = Literal["released", "random", "clip"]
PARTS: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")


def new_projections(
    clip: ClipEncoder, part: Literal["q", "k", "v"], *, variant: Variant, init: Init, seed: int
) -> nn.ModuleList | None:
    """A projection for every layer of the tower, (C, C) with bias; None if the variant has none.

    Args:
        clip: whose layers and sizes they follow.
        part: what it projects to.
        variant: what is tuned, see `MaskClassTokens`.
        init: how it begins, see `MaskClassTokens`.
        seed: of a random beginning.
    """
    if variant == "clip" or part not in variant:
        return None
    blocks = clip.visual.transformer.resblocks
    if begins_as_clip(part, init):
        return nn.ModuleList(_copied(block.attn, PARTS.index(part)) for block in blocks)
    width = blocks[0].attn.embed_dim
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + PARTS.index(part))
        projections = [nn.Linear(width, width) for _ in blocks]
    return nn.ModuleList(projections).to(blocks[0].attn.in_proj_weight)


def begins_as_clip(variant: Variant, init: Init) -> bool:
    """Whether all that a variant tunes is CLIP's own at first.

    Args:
        variant: what is tuned, see `MaskClassTokens`.
        init: how it begins, see `MaskClassTokens`.
    """
    return variant == "clip" or init == "clip" or (init == "released" and "q" not in variant)


def _copied(attention: nn.MultiheadAttention, place: int) -> nn.Linear:
    """The attention's own projection; `place` is 0 for queries, 1 for keys, 2 for values."""
    width = attention.embed_dim
    projection = nn.Linear(width, width, device="meta")
    projection.weight = _copied_rows(attention.in_proj_weight, place, width)
    projection.bias = _copied_rows(attention.in_proj_bias, place, width)
    return projection


def _copied_rows(stacked: Tensor, place: int, width: int) -> nn.Parameter:
    return nn.Parameter(stacked[place * width :][:width].detach().clone())
