"""Crops through the image tower, with prompts in the place of the patches that a mask leaves blank.

OVSeg (Liang et al., CVPR 2023), section 3.3: mask prompt tuning. As released: a patch counts as
seen if any pixel of it is inside; the first prompts take the place of the patches' embeddings, so
that they get the patches' positions, and those of each further depth the place of the same tokens
before the layer of that number.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.vision_transformer import is_plain, one_layer, project_class_tokens
from ovseg_cli.errors import CheckpointError


def encode_crops(
    visual: nn.Module,
    crops: Float[Tensor, "N 3 R R"],
    masks: Bool[Tensor, "N R R"] | None = None,
    prompts: Float[Tensor, "depth P C"] | None = None,
) -> Float[Tensor, "N D"]:
    """Crops in the joint space, not normalised; gradients reach tower and prompts.

    Args:
        visual: the image tower; any where there are no prompts.
        crops: normalised, of the tower's size; smaller ones lie in the middle of its square.
        masks: True inside; only prompts need them.
        prompts: a vector a patch for each of the first layers; None for the tower as it is.

    Raises:
        CheckpointError: prompts in a tower without plain patches.
    """
    if not is_plain(visual):
        check_prompts_fit(visual, 0 if prompts is None else len(prompts))
        embeddings: Tensor = visual(crops)
        return embeddings
    seen = None
    if prompts is not None and masks is not None:
        seen = seen_patches(masks, visual.patch_size[0])[..., None]
    patches = visual.conv1(crops)  # (N, C, h, w)
    positions = _positions(visual, patches.shape[-1]).to(patches.dtype)
    patches = _prompted(patches.flatten(2).transpose(1, 2), seen, prompts, 0)  # (N, P, C)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([class_token, patches], dim=1)
    tokens = visual.ln_pre(tokens + positions)
    blocks = visual.transformer.resblocks
    for depth, block in enumerate(blocks):
        if depth > 0 and prompts is not None and depth < len(prompts):
            patches = _prompted(tokens[:, 1:], seen, prompts, depth)
            tokens = torch.cat([tokens[:, :1], patches], dim=1)
        tokens = one_layer(block, tokens, class_token_alone=depth == len(blocks) - 1)
    return project_class_tokens(visual, tokens)[:, 0]


def seen_patches(masks: Bool[Tensor, "N R R"], patch: int) -> Bool[Tensor, "N P"]:
    """Which patches have a pixel inside.

    Args:
        masks: True inside.
        patch: its side in pixels.
    """
    if not len(masks):
        return masks.new_zeros(0, (masks.shape[-1] // patch) ** 2)
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


def check_side_fits(visual: nn.Module, side: int, resolution: int) -> None:
    """Refuses crops of a size that the tower does not take.

    Args:
        visual: the image tower.
        side: of the crops in pixels.
        resolution: the tower's own.

    Raises:
        CheckpointError: a side that is larger or no multiple of the patch, or another than the own
            one of a tower that is no plain vision transformer.
    """
    if side == resolution:
        return
    if not is_plain(visual):
        raise CheckpointError(
            f"[mask_encoder] side: {side}: only a plain vision transformer sees crops of another "
            f"size than its {resolution} pixels; leave it out"
        )
    patch = visual.patch_size[0]
    if side > resolution or side % patch:
        raise CheckpointError(
            f"[mask_encoder] side: {side} is no multiple of the patch ({patch}) up to "
            f"{resolution}, the size of this CLIP"
        )


def check_prompts_fit(visual: nn.Module, depth: int) -> None:
    """Refuses prompts that the tower has no place for.

    Args:
        visual: the image tower.
        depth: of the prompts; 0 fits every tower.

    Raises:
        CheckpointError: it is no plain vision transformer, or has fewer layers.
    """
    if not depth:
        return
    if not is_plain(visual):
        kind = type(getattr(visual, "trunk", visual)).__name__
        raise CheckpointError(
            "clip: mask prompts need a square vision transformer with a class token and plain "
            f"attention, and this image tower is a {kind} of another kind; set "
            "mask_encoder.prompts to 0, or choose a clip such as ViT-L-14-quickgelu"
        )
    layers = len(visual.transformer.resblocks)
    if depth > layers:
        raise CheckpointError(
            f"[mask_encoder] prompts: {depth} is deeper than this CLIP's {layers} layers; set it "
            f"to {layers} or less"
        )


def _positions(visual: Any, side: int) -> Tensor:
    """The class token's position, and those in the middle of the square: (1 + side², C)."""
    table = visual.positional_embedding
    native = visual.grid_size[0]
    if side == native:
        return cast(Tensor, table)
    first = (native - side) // 2
    window = table[1:].unflatten(0, (native, native))[first : first + side, first : first + side]
    return torch.cat([table[:1], window.flatten(0, 1)])


def _prompted(patches: Tensor, seen: Tensor | None, prompts: Tensor | None, depth: int) -> Tensor:
    """The patches, those that are not seen replaced by the prompts of a depth."""
    if seen is None or prompts is None:
        return patches
    return torch.where(seen, patches, prompts[depth].to(patches.dtype))
