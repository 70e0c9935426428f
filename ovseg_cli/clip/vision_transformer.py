"""The tokens of open_clip's vision transformer, layer by layer, with the weights where they are.

Extra tokens that only read the image (mask class tokens) need its keys and values and nothing else:
the image's own stream is what it would be without them.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple, TypeGuard, cast

import torch
from jaxtyping import Bool, Float
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.errors import CheckpointError


class ImageLayer(NamedTuple):
    """What one layer's attention reads of the image, the class token first.

    Attributes:
        normed: the tokens that enter the layer, after its first norm.
        keys: their keys, heads split.
        values: their values, heads split.
        entering: the tokens that enter the layer, before its first norm.
    """

    normed: Float[Tensor, "B L C"]
    keys: Float[Tensor, "B heads L d"]
    values: Float[Tensor, "B heads L d"]
    entering: Float[Tensor, "B L C"]


def is_plain(visual: nn.Module) -> TypeGuard[VisionTransformer]:
    """Whether a tower is a square vision transformer with a class token and plain blocks.

    Args:
        visual: any image tower.
    """
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.grid_size[0] == visual.grid_size[1]
        and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    )


def plain_vision_transformer(visual: nn.Module) -> VisionTransformer:
    """The image tower, if mask class tokens can be put into it.

    Raises:
        CheckpointError: it is not a vision transformer with a class token and plain blocks.
    """
    if not is_plain(visual):
        kind = type(getattr(visual, "trunk", visual)).__name__
        raise CheckpointError(
            f"clip: mask class tokens need a square vision transformer with a class token and "
            f"plain attention, and this image tower is a {kind} of another kind; choose one such "
            "as ViT-L-14-336-quickgelu, or set mask_encoder.name to mask_pooling"
        )
    return visual


def split_heads(tokens: Float[Tensor, "B L C"], heads: int) -> Float[Tensor, "B heads L d"]:
    """The channels of each token shared out among the heads."""
    return tokens.reshape(*tokens.shape[:-1], heads, tokens.shape[-1] // heads).transpose(1, 2)


def image_tokens(
    visual: VisionTransformer,
    pixels: Float[Tensor, "B 3 H W"],
    positions: Float[Tensor, "L C"] | None = None,
) -> Float[Tensor, "B L C"]:
    """Class token and patches as they enter the first layer.

    Args:
        visual: the image tower; its `conv1` may be any module that gives a (B, C, h, w) grid.
        pixels: normalised images, of the tower's size unless positions are given.
        positions: the tokens', the class token's first; None for the tower's own.
    """
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, C)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([class_token, patches], dim=1)
    positions = visual.positional_embedding if positions is None else positions
    entering: Tensor = visual.ln_pre(tokens + positions.to(tokens.dtype))
    return entering


def image_layers(
    visual: VisionTransformer, pixels: Float[Tensor, "B 3 R R"]
) -> Iterator[ImageLayer]:
    """The frozen tower's tokens, keys and values, layer by layer, without gradient.

    Nothing is computed that no later layer reads: the last layer stops at its keys and values.

    Args:
        visual: the image tower.
        pixels: normalised images of the tower's size.
    """
    with torch.no_grad():
        tokens = image_tokens(visual, pixels)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        with torch.no_grad():  # not around the yield, where the caller's gradients are made
            normed = block.ln_1(tokens)
            queries = split_heads(own_queries(block, normed), block.attn.num_heads)
            # apart from the queries, which they may outlive
            keys, values = keys_and_values(block, normed)
            attended = F.scaled_dot_product_attention(queries, keys, values)
            entering, tokens = tokens, finish_block(block, tokens, attended)
        yield ImageLayer(normed, keys, values, entering)
    with torch.no_grad():
        normed = last.ln_1(tokens)
        keys, values = keys_and_values(last, normed)
    yield ImageLayer(normed, keys, values, tokens)


def reread(block: ResidualAttentionBlock, image: ImageLayer) -> ImageLayer:
    """The image's tokens with the keys and values that another tower's block makes of them.

    Args:
        block: the same layer of the other tower, whose first norm and projections are used.
        image: the layer of the tower whose image it is.
    """
    normed = block.ln_1(image.entering)
    keys, values = keys_and_values(block, normed)
    return ImageLayer(normed, keys, values, image.entering)


def second_tower(visual: VisionTransformer) -> VisionTransformer:
    """A trainable copy of the tower, without what only an image's patches pass through.

    It has no patch convolution and no positions, so `image_tokens` is not for it.

    Args:
        visual: the tower, left as it is.
    """
    tower = copy.deepcopy(visual)
    tower.conv1 = nn.Identity()
    del tower.positional_embedding
    return tower.requires_grad_(True)


def keys_and_values(
    block: ResidualAttentionBlock, normed: Float[Tensor, "B L C"]
) -> list[Float[Tensor, "B heads L d"]]:
    """The keys and values that the block's own projections give for normed tokens, heads split."""
    attention = block.attn
    width = attention.embed_dim
    weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
    projected = F.linear(normed, weight, bias)
    return [split_heads(part, attention.num_heads) for part in projected.split(width, dim=-1)]


def one_layer(
    block: ResidualAttentionBlock, tokens: Float[Tensor, "B L C"], *, class_token_alone: bool
) -> Float[Tensor, "B L2 C"]:
    """What a layer makes of tokens that all see one another.

    Args:
        block: the layer.
        tokens: as they enter it, the class token first.
        class_token_alone: whether the others are read and not computed, as in the last layer.
    """
    normed = block.ln_1(tokens)
    reading = slice(0, 1) if class_token_alone else slice(None)
    queries = split_heads(own_queries(block, normed[:, reading]), block.attn.num_heads)
    keys, values = keys_and_values(block, normed)
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return finish_block(block, tokens[:, reading], attended)


def finish_block(
    block: ResidualAttentionBlock,
    tokens: Float[Tensor, "B L C"],
    attended: Float[Tensor, "B heads L d"],
) -> Float[Tensor, "B L C"]:
    """What follows the attention in a block: output projection and MLP, both residual."""
    attended = attended.transpose(1, 2).flatten(2)  # (B, L, C)
    tokens = tokens + block.ls_1(block.attn.out_proj(attended))
    finished: Tensor = tokens + block.ls_2(_mlp(block.mlp, block.ln_2(tokens)))
    return finished


def _mlp(mlp: nn.Sequential, tokens: Tensor) -> Tensor:
    """The block's MLP; QuickGELU's x sigmoid(sx) as silu(sx) / s, its scales inside the products.

    One pass over the hidden channels instead of four, and one tensor kept for the backward pass.
    """
    if not isinstance(mlp.gelu, QuickGELU):
        output: Tensor = mlp(tokens)
        return output
    rise, fall, scale = cast(nn.Linear, mlp.c_fc), cast(nn.Linear, mlp.c_proj), 1.702
    rows = tokens.flatten(0, -2)
    hidden = torch.addmm(rise.bias, rows, rise.weight.T, beta=scale, alpha=scale)
    hidden = F.silu(hidden, inplace=not hidden.requires_grad)
    return torch.addmm(fall.bias, hidden, fall.weight.T, alpha=1 / scale).view_as(tokens)


def own_queries(
    block: ResidualAttentionBlock, normed: Float[Tensor, "B L C"]
) -> Float[Tensor, "B L C"]:
    """The queries that the block's own projection gives for normed tokens."""
    width = block.attn.embed_dim
    return F.linear(normed, block.attn.in_proj_weight[:width], block.attn.in_proj_bias[:width])


def read_image(
    block: ResidualAttentionBlock,
    tokens: Float[Tensor, "B N C"],
    queries: Float[Tensor, "B N C"],
    image: ImageLayer,
    visible: Bool[Tensor, "B N L"],
) -> Float[Tensor, "B N C"]:
    """One layer of tokens that read the image and not one another.

    Args:
        block: the layer, whose output projection and MLP the tokens share.
        tokens: (B, N, C) as they enter the layer.
        queries: (B, N, C) projected from the normed tokens.
        image: the layer's keys and values of the image.
        visible: (B, N, L) True where a token may look; a row without any gives NaN.
    """
    attended = F.scaled_dot_product_attention(
        split_heads(queries, block.attn.num_heads),
        image.keys,
        image.values,
        attn_mask=visible[:, None],
    )
    return finish_block(block, tokens, attended)


def project_class_tokens(
    visual: VisionTransformer, tokens: Float[Tensor, "B N C"]
) -> Float[Tensor, "B N D"]:
    """The last layer's tokens in CLIP's joint space, as the class token gets there."""
    embeddings: Tensor = visual.ln_post(tokens) @ visual.proj
    return embeddings
