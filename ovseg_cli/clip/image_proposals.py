"""Image towers that give every mask a class token of its own, and images of any size.

MAFT (Jiao et al., NeurIPS 2023), section 3.1: IP-CLIP. The first layers of a vision transformer see
the whole image; from a start layer on, the class token is there once for every mask. It attends to
itself and its mask's patches, the patches to patches alone. In a ResNet the attention pooling is
where masks come in (section 4.4, not released).

Same results as the released code, which runs class tokens and patches in one sequence with an
attention bias of its squared length. Here a class token is one softmax over itself and its patches,
which are computed without it, and the last layer's patches are only read. Positions are stretched
bicubically from corner to corner, as released. Any number of masks, none among them, will do.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.vision_transformer import (
    finish_block,
    image_tokens,
    is_plain,
    keys_and_values,
    one_layer,
    own_queries,
    project_class_tokens,
    split_heads,
)
from ovseg_cli.errors import CheckpointError, RecipeError


class MaskReadingTransformer:
    """A class token for each mask in the later layers of a vision transformer.

    Args:
        visual: the image tower.
        start_layer: the first layer, from 0, that has them.

    Raises:
        RecipeError: the tower has no such layer.
    """

    def __init__(self, visual: VisionTransformer, start_layer: int) -> None:
        layers = len(visual.transformer.resblocks)
        if start_layer >= layers:
            raise RecipeError(
                f"[mask_encoder] start_layer: masks that come in at layer {start_layer} meet none "
                f"of this CLIP's {layers} layers, counted from 0; set it to {layers - 1} or less"
            )
        self.visual, blocks = visual, list(visual.transformer.resblocks)
        self.first, self.later = blocks[:start_layer], blocks[start_layer:]

    def grid(self, side: int) -> int:
        """Whole patches; pixels that are left over are not seen, as released."""
        return int(side // self.visual.patch_size[0])

    def read(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B L C"]:
        """Class token and patches as they enter the start layer."""
        side = self.grid(pixels.shape[-1])
        whole = side * self.visual.patch_size[0]
        positions = stretched_positions(self.visual.positional_embedding, side)
        tokens = image_tokens(self.visual, pixels[..., :whole, :whole], positions)
        for block in self.first:
            tokens = one_layer(block, tokens, class_token_alone=False)
        return tokens

    def of_masks(
        self, shared: Float[Tensor, "B L C"], visible: Bool[Tensor, "B N P"]
    ) -> Float[Tensor, "B N D"]:
        """Masks in the joint space; one that sees no patch is what its token makes of itself."""
        masks = shared[:, :1].expand(-1, visible.shape[1], -1)
        patches = shared[:, 1:]
        for block in self.later:
            normed, heads = block.ln_1(patches), block.attn.num_heads
            keys, values = keys_and_values(block, normed)
            masks = _read_patches(block, masks, keys, values, visible)
            if block is not self.later[-1]:
                queries = split_heads(own_queries(block, normed), heads)
                attended = F.scaled_dot_product_attention(queries, keys, values)
                patches = finish_block(block, patches, attended)
        return project_class_tokens(self.visual, masks)

    def of_image(self, shared: Float[Tensor, "B L C"]) -> Float[Tensor, "B D"]:
        """The whole image in the joint space, its class token seen by the patches as in CLIP."""
        for block in self.later:
            shared = one_layer(block, shared, class_token_alone=block is self.later[-1])
        return project_class_tokens(self.visual, shared)[:, 0]


class MaskReadingResNet:
    """Attention pooling over a mask's cells: the mean of all cells asks, once for every mask.

    The paper has the repeated mean as queries and the masks as attention's bias, and no more. Here
    the mean is a key too, seen by every mask, as a class token sees itself: a full mask then gives
    CLIP's own embedding, and an empty one what the mean makes of itself.

    Args:
        visual: the image tower.
    """

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    def grid(self, side: int) -> int:
        """Cells of the last layer: one convolution of stride 2 rounds up, four poolings down."""
        return (side + 1) // 2 // 16

    def read(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B L C"]:
        """The mean of the last layer's cells and the cells, with their positions."""
        visual = self.visual
        features = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
        cells = features.flatten(2).transpose(1, 2)  # (B, P, C)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1)
        positions = stretched_positions(visual.attnpool.positional_embedding, features.shape[-1])
        return tokens + positions.to(tokens.dtype)

    def of_masks(
        self, shared: Float[Tensor, "B L C"], visible: Bool[Tensor, "B N P"]
    ) -> Float[Tensor, "B N D"]:
        """Masks in the joint space; query, keys and values are one for all of them."""
        pool = self.visual.attnpool
        query = split_heads(pool.q_proj(shared[:, :1]), pool.num_heads)
        keys, values = (
            split_heads(project(shared), pool.num_heads) for project in (pool.k_proj, pool.v_proj)
        )
        scores = query * query.shape[-1] ** -0.5 @ keys.transpose(2, 3)  # (B, heads, 1, L)
        seen = F.pad(visible, (1, 0), value=True)[:, None]  # every mask sees the mean
        shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)  # (B, heads, N, L)
        embeddings: Tensor = pool.c_proj((shares @ values).transpose(1, 2).flatten(2))
        return embeddings

    def of_image(self, shared: Float[Tensor, "B L C"]) -> Float[Tensor, "B D"]:
        """The whole image in the joint space: CLIP's own pooling."""
        everything = shared.new_ones((len(shared), 1, shared.shape[1] - 1), dtype=torch.bool)
        return self.of_masks(shared, everything)[:, 0]


MaskReadingTower = MaskReadingTransformer | MaskReadingResNet


def mask_reading_tower(visual: nn.Module, *, start_layer: int) -> MaskReadingTower:
    """The way masks take through an image tower.

    Args:
        visual: a plain vision transformer or a ResNet with attention pooling; not copied.
        start_layer: the first layer, from 0, that has a class token for each mask; a ResNet has
            only one place for masks, and does not look at it.

    Raises:
        CheckpointError: the tower is of another kind.
        RecipeError: it has no such layer.
    """
    if isinstance(visual, ModifiedResNet):
        return MaskReadingResNet(visual)
    if is_plain(visual):
        return MaskReadingTransformer(visual, start_layer)
    raise CheckpointError(
        "clip: image_proposals needs a square vision transformer with a class token and plain "
        "attention, or a ResNet with attention pooling, and this image tower is a "
        f"{type(getattr(visual, 'trunk', visual)).__name__} of another kind; choose one such as "
        "ViT-B-16-quickgelu, or set mask_encoder.name to mask_pooling"
    )


def stretched_positions(table: Float[Tensor, "L0 C"], side: int) -> Float[Tensor, "L C"]:
    """Positions of a square grid of another size: bicubic, corners on corners, as released.

    Args:
        table: of the class token, or a ResNet's mean, and of the trained grid.
        side: of the grid that is wanted, in cells.
    """
    trained = round((len(table) - 1) ** 0.5)
    if side == trained:
        return table
    grid = table[1:].T.unflatten(1, (trained, trained))[None]
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=True)
    return torch.cat([table[:1], grid[0].flatten(1).T.to(table.dtype)])


def _read_patches(
    block: Any,
    masks: Float[Tensor, "B N C"],
    keys: Float[Tensor, "B heads P d"],
    values: Float[Tensor, "B heads P d"],
    visible: Bool[Tensor, "B N P"],
) -> Float[Tensor, "B N C"]:
    """One layer of class tokens, each a softmax over itself and the patches that it sees."""
    normed, heads = block.ln_1(masks), block.attn.num_heads
    queries = split_heads(own_queries(block, normed), heads)
    queries = queries * queries.shape[-1] ** -0.5
    own_keys, own_values = keys_and_values(block, normed)
    own = (queries * own_keys).sum(-1, keepdim=True)  # (B, heads, N, 1)
    seen = (queries @ keys.transpose(2, 3)).masked_fill(~visible[:, None], -torch.inf)
    shares = torch.cat([own, seen], dim=-1).softmax(-1)
    attended = shares[..., :1] * own_values + shares[..., 1:] @ values
    return finish_block(block, masks, attended)
