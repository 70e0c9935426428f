"""A small CLIP: open_clip's two towers with a convolutional stem and a factorised token table.

Convolutional stem: Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021.
The token table has 49,408 rows, so that any word still tokenises; factorised (ALBERT, Lan et al.,
ICLR 2020) it is a table of few columns and one matrix.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg_cli.errors import RecipeError

VOCABULARY_SIZE = 49408


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
    quotients = (
        ("image_size", image_size, "patch_size", patch_size),
        ("width", width, "heads", heads),
        ("text_width", text_width, "text_heads", text_heads),
    )
    for name, size, divisor_name, divisor in quotients:
        if size % divisor:
            raise RecipeError(
                f"[clip] {name}: {size} is not a multiple of {divisor_name} ({divisor}); "
                "choose one that is"
            )
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


def _factorised_table(token_width: int, text_width: int) -> nn.Sequential:
    table = nn.Embedding(VOCABULARY_SIZE, token_width)
    mixed = nn.Linear(token_width, text_width, bias=False)
    nn.init.normal_(table.weight, std=0.3)
    nn.init.normal_(mixed.weight, std=0.3 / token_width**0.5)
    return nn.Sequential(table, mixed)


class PairEncoder(nn.Module):
    """Both towers of a CLIP on image-text pairs, in training.

    Args:
        clip: with a plain ViT image tower and a causal text tower that ends at the highest token.
        mean: of the RGB channels in 0..1.
        std: of the RGB channels in 0..1.
    """

    def __init__(
        self,
        clip: open_clip.CLIP,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.clip = clip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(
        self,
        pixels: UInt8[Tensor, "B 3 H W"],
        corner: tuple[int, int],
        tokens: Int[Tensor, "T context"],
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "T D"], Float[Tensor, ""]]:
        """Image embeddings and text embeddings, neither normalised, and the temperature's factor.

        Args:
            pixels: (B, 3, H, W) RGB, at most of the tower's size, multiples of the patch.
            corner: (row, column) in patches of the place that a window has in the tower's square.
            tokens: (T, context length) as the tokenizer gives them.
        """
        images = (pixels - self.mean) / self.std
        with _attention_for(images):
            image_embeddings = encode_windows(self.clip, images, corner)
            text_embeddings = encode_texts(self.clip, tokens)
        return image_embeddings, text_embeddings, self.clip.logit_scale.exp()


def _attention_for(images: Tensor) -> AbstractContextManager[None]:
    """On a CPU the backward of fused attention is the slowest part of all for short sequences."""
    short = images.device.type == "cpu" and max(images.shape[-2:]) < 96
    return sdpa_kernel(SDPBackend.MATH) if short else nullcontext()


def encode_windows(
    clip: open_clip.CLIP, images: Float[Tensor, "B 3 H W"], corner: tuple[int, int]
) -> Float[Tensor, "B D"]:
    """Image embeddings, not normalised, of windows of the square that the tower looks at.

    Args:
        clip: with a plain ViT image tower.
        images: (B, 3, H, W) normalised, at most of the tower's size, multiples of the patch.
        corner: (row, column) in patches of the window's place in the position table.
    """
    visual = clip.visual
    patches = visual.conv1(images)
    height, width = patches.shape[-2:]
    table = visual.positional_embedding[1:].unflatten(0, visual.grid_size)
    places = table[corner[0] : corner[0] + height, corner[1] : corner[1] + width].flatten(0, 1)
    patches = patches.flatten(2).transpose(1, 2) + places
    token = visual.class_embedding + visual.positional_embedding[0]
    tokens = torch.cat([token.expand(len(images), 1, -1), patches], dim=1)
    tokens = visual.transformer(visual.ln_pre(tokens))
    embeddings: Tensor = visual.ln_post(tokens[:, 0]) @ visual.proj
    return embeddings


def encode_texts(clip: open_clip.CLIP, tokens: Int[Tensor, "T context"]) -> Float[Tensor, "T D"]:
    """Text embeddings, not normalised: those of `encode_text`, without the cost of the padding.

    Args:
        clip: with a causal text tower that ends at the highest token.
        tokens: (T, context length) as the tokenizer gives them.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    embedded = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    states = clip.transformer(embedded, attn_mask=clip.attn_mask[:length, :length])
    embeddings: Tensor = clip.ln_final(states)[torch.arange(len(tokens)), ends]
    embeddings = embeddings @ clip.text_projection
    return embeddings


def tokenize_captions(texts: Sequence[str], *, context_length: int) -> Int[Tensor, "T context"]:
    """Token ids of captions; those that are too long lose their end.

    Args:
        texts: T sentences.
        context_length: of the text tower.
    """
    tokens: Tensor = open_clip.tokenize(list(texts), context_length=context_length)
    return tokens
