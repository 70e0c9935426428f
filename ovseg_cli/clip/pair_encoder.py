"""Both towers of a small CLIP in training: windows of images, texts without their padding."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg_cli.clip.small import CONVNEXT_STRIDE


class PairEncoder(nn.Module):
    """Both towers of a CLIP on image-text pairs, in training.

    Args:
        clip: with a plain ViT or a ConvNeXt image tower, and a causal text tower that ends at the
            highest token.
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
            corner: (row, column) in patches of the place that a window has in the tower's square;
                a ConvNeXt has no table of places.
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
        clip: with a plain ViT or a ConvNeXt image tower.
        images: (B, 3, H, W) normalised, at most of the tower's size, multiples of the patch.
        corner: (row, column) in patches of the window's place in the position table.
    """
    visual = clip.visual
    if not isinstance(visual, VisionTransformer):
        whole: Tensor = visual(images)
        return whole
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


def window_grid(clip: open_clip.CLIP) -> tuple[int, int]:
    """(patches on a side of the square that the tower looks at, pixels on a side of a patch).

    A ConvNeXt's patch is its stride.

    Args:
        clip: with a plain ViT or a ConvNeXt image tower.
    """
    visual = clip.visual
    if isinstance(visual, VisionTransformer):
        return visual.grid_size[0], visual.patch_size[0]
    return visual.image_size[0] // CONVNEXT_STRIDE, CONVNEXT_STRIDE


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
