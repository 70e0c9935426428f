"""Small CLIPs, untrained: open_clip's towers with a factorised token table.

Convolutional stem: Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021.
ConvNeXt: Liu et al., "A ConvNet for the 2020s", CVPR 2022. The token table has 49,408 rows, so
that any word still tokenises; factorised (ALBERT, Lan et al., ICLR 2020) it is a table of few
columns and one matrix.
"""

from collections.abc import Callable
from typing import Literal

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from pydantic import PositiveInt
from timm.layers.mlp import Mlp
from timm.models.convnext import ConvNeXt
from torch import nn

from ovseg_cli.errors import RecipeError

VOCABULARY_SIZE = 49408
CONVNEXT_STRIDE = 32


class ConvStem(nn.Sequential):
    """Convolutions down to the patch grid, in place of the patch projection.

    Each stage halves the grid; all but the first have a second convolution. With batch norm it
    learned faster in short trials than with group norm or without any.

    Args:
        width: channels of the result.
        patch_size: stride of the result in pixels, a power of two.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        layers: list[nn.Module] = []
        steps, channels = patch_size.bit_length() - 1, 3
        for step in range(1, steps + 1):
            following = max(16, width >> (steps - step))
            layers.append(nn.Conv2d(channels, following, 3, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(following), nn.ReLU()]
            if step > 1:
                layers.append(nn.Conv2d(following, following, 3, padding=1, bias=False))
                layers += [nn.BatchNorm2d(following), nn.ReLU()]
            channels = following
        super().__init__(*layers, nn.Conv2d(channels, width, 1))


def build_small_clip(
    *,
    embed_dim: PositiveInt = 128,
    image_size: PositiveInt = 128,
    patch_size: PositiveInt = 8,
    width: PositiveInt = 128,
    layers: PositiveInt = 3,
    heads: PositiveInt = 4,
    text_width: PositiveInt = 96,
    text_layers: PositiveInt = 1,
    text_heads: PositiveInt = 4,
    token_width: PositiveInt = 32,
    context_length: PositiveInt = 32,
    stem: Literal["patch", "conv"] = "conv",
) -> open_clip.CLIP:
    """An untrained CLIP of open_clip's architecture.

    Args:
        embed_dim: of the joint space.
        image_size: side of the square images in pixels.
        patch_size: side of a patch in pixels, a power of two with the "conv" stem.
        width: of the image tower.
        layers: of the image tower.
        heads: of the image tower.
        text_width: of the text tower.
        text_layers: of the text tower.
        text_heads: of the text tower.
        token_width: columns of the factorised token table.
        context_length: longest text in tokens.
        stem: one "patch" projection as in ViT, or convolutions.

    Raises:
        RecipeError: sizes that do not divide one another.
    """
    _check_multiple("image_size", image_size, "patch_size", patch_size)
    _check_multiple("width", width, "heads", heads)
    _check_multiple("text_width", text_width, "text_heads", text_heads)
    if stem == "conv" and patch_size & (patch_size - 1):
        raise RecipeError(
            f"[clip] patch_size: {patch_size} is not a power of two, as the conv stem needs; "
            "choose one, or set stem to patch"
        )
    vision = CLIPVisionCfg(
        layers=layers,
        width=width,
        head_width=width // heads,
        patch_size=patch_size,
        image_size=image_size,
    )
    text = CLIPTextCfg(
        context_length=context_length, width=text_width, heads=text_heads, layers=text_layers
    )
    clip = open_clip.CLIP(embed_dim, vision, text)
    if stem == "conv":
        clip.visual.conv1 = ConvStem(width, patch_size)
    clip.token_embedding = _factorised_table(token_width, text_width)
    return clip


def build_small_convnext_clip(
    *,
    embed_dim: PositiveInt = 128,
    image_size: PositiveInt = 192,
    depths: tuple[PositiveInt, ...] = (1, 1, 2, 1),
    dims: tuple[PositiveInt, ...] = (32, 64, 128, 256),
    text_width: PositiveInt = 96,
    text_layers: PositiveInt = 1,
    text_heads: PositiveInt = 4,
    token_width: PositiveInt = 32,
    context_length: PositiveInt = 32,
    stem: Literal["patch", "conv"] = "conv",
) -> open_clip.CLIP:
    """An untrained CLIP whose image tower is a ConvNeXt, with the heads of open_clip's ConvNeXt-L.

    Args:
        embed_dim: of the joint space.
        image_size: side of the square images in pixels, a multiple of 32; it takes others too.
        depths: blocks of the four stages.
        dims: channels of the four stages.
        text_width: of the text tower.
        text_layers: of the text tower.
        text_heads: of the text tower.
        token_width: columns of the factorised token table.
        context_length: longest text in tokens.
        stem: one "patch" projection as in ConvNeXt, or convolutions.

    Raises:
        RecipeError: sizes that do not divide one another, or other than four stages.
    """
    _check_multiple("image_size", image_size, "the stride", CONVNEXT_STRIDE)
    _check_multiple("text_width", text_width, "text_heads", text_heads)
    for name, stages in (("depths", depths), ("dims", dims)):
        if len(stages) != 4:
            raise RecipeError(f"[clip] {name}: {len(stages)} numbers; a ConvNeXt has four stages")
    vision = CLIPVisionCfg(
        timm_model_name="convnext_atto", timm_pool="", timm_proj="mlp", image_size=image_size
    )
    text = CLIPTextCfg(
        context_length=context_length, width=text_width, heads=text_heads, layers=text_layers
    )
    clip = open_clip.CLIP(embed_dim, vision, text)
    clip.visual.trunk = ConvNeXt(num_classes=0, depths=depths, dims=dims, ls_init_value=None)
    if stem == "conv":
        clip.visual.trunk.stem = ConvStem(dims[0], CONVNEXT_STRIDE // 8)
    _keep_variance(clip.visual.trunk)
    clip.visual.head.mlp = Mlp(dims[-1], 2 * embed_dim, embed_dim, bias=(True, False))
    clip.token_embedding = _factorised_table(token_width, text_width)
    return clip


def _keep_variance(trunk: nn.Module) -> None:
    """A short training from nothing learns far sooner so than from ConvNeXt's own small weights."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_multiple(name: str, size: int, divisor_name: str, divisor: int) -> None:
    if size % divisor:
        raise RecipeError(
            f"[clip] {name}: {size} is not a multiple of {divisor_name} ({divisor}); "
            "choose one that is"
        )


def _factorised_table(token_width: int, text_width: int) -> nn.Sequential:
    table = nn.Embedding(VOCABULARY_SIZE, token_width)
    mixed = nn.Linear(token_width, text_width, bias=False)
    nn.init.normal_(table.weight, std=0.3)
    nn.init.normal_(mixed.weight, std=0.3 / token_width**0.5)
    return nn.Sequential(table, mixed)


SMALL_CLIPS: dict[str, Callable[..., open_clip.CLIP]] = {
    "small": build_small_clip,
    "small_convnext": build_small_convnext_clip,
}
