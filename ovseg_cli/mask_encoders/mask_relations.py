"""What relative mask attention adds to a layer: scores of mask patches, and refined masks.

MaskCLIP (Ding et al., ICML 2023), section 3.3, equations 2 to 5. As released, and not in the paper:
the patches of a mask are embedded from the tanh of its logits, anew in every layer, and get a norm
and no projection; QuickGELU and a 1x1 convolution whose output channels are the pixels of a patch
do for the paper's two-layer decoder.

Same results as the released code without its tensors of masks x patches x channels. The scores
need the normed patch embeddings only in products, which are sums over the pixels of a patch; their
mean and variance are a quadratic form of the pixels. The refinement needs a GELU between its two
products, so it goes a few masks at a time, small enough for the cache, and the backward pass
computes it again.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

QUICK_GELU = 1.702  # QuickGELU is x sigmoid(1.702 x)
CACHED, BATCHED = 1 << 20, 1 << 25  # numbers at a time, on a CPU and elsewhere


class RelativeScores(nn.Module):
    """Attention scores between the patches of each mask and those of the image, place by place.

    Begins as released: weights by Kaiming's normal rule, the patches' biases from 0..1.

    Args:
        width: C, the channels of a token.
        heads: of the attention.
        patch: pixels of a patch's side.
    """

    def __init__(self, width: int, heads: int, patch: int) -> None:
        super().__init__()
        self.heads, self.patch = heads, patch
        self.patches = nn.Linear(patch**2, width)
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.patches.weight)
        nn.init.uniform_(self.patches.bias)
        nn.init.kaiming_normal_(self.keys.weight)
        nn.init.zeros_(self.keys.bias)

    def forward(
        self, mask_logits: Float[Tensor, "B N R R"], normed: Float[Tensor, "B P C"]
    ) -> Float[Tensor, "B heads N P"]:
        """Head by head, the normed embedding of a mask's patch times the key of the image's.

        Divided by the square root of a head's channels; not normalised and not in the least
        dependent on the tokens of the masks. Float32 under autocast.

        Args:
            mask_logits: at the size of CLIP's image.
            normed: the image's patches as they enter the layer's attention.
        """
        keys = self.keys(normed)
        with torch.autocast(mask_logits.device.type, enabled=False):
            readers = self._readers(keys.to(self.patches.weight.dtype))
            gram = self._gram()
            scores = [
                in_chunks(self._scores, (own,), (*(r[index] for r in readers), *gram), own[:1])
                for index, own in enumerate(mask_logits)
            ]
        return torch.stack(scores).transpose(1, 2)

    @torch.no_grad()
    def ask_alike(
        self,
        query: Float[Tensor, " C"],
        weight: Float[Tensor, "C C"],
        bias: Float[Tensor, " C"],
    ) -> None:
        """Makes the scores those of one query, whatever the mask; masks count once this is trained.

        Args:
            query: of every mask at every patch.
            weight: of the projection to the keys that it asks.
            bias: of that projection.
        """
        self.norm.weight.zero_()
        self.norm.bias.copy_(query)
        self.keys.weight.copy_(weight)
        self.keys.bias.copy_(bias)

    def _readers(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a head's score is in the pixels of a patch: weights, and constants on both sides."""
        weight, bias = self._centred()
        split = (self.heads, -1)
        keys = keys * (keys.shape[-1] // self.heads) ** -0.5
        scaled = (keys * self.norm.weight).unflatten(-1, split)  # (B, P, heads, d)
        pixels = torch.einsum("bphd,hdk->bpkh", scaled, weight.unflatten(0, split))
        inside = torch.einsum("bphd,hd->bph", scaled, bias.unflatten(0, split))
        outside = (keys * self.norm.bias).unflatten(-1, split).sum(-1)
        return pixels, inside, outside

    def _gram(self) -> tuple[Tensor, Tensor, Tensor]:
        """The variance of a patch's embedding as a quadratic form of its pixels."""
        weight, bias = self._centred()
        channels = len(bias)
        return weight.T @ weight / channels, 2 * bias @ weight / channels, bias.square().mean()

    def _centred(self) -> tuple[Tensor, Tensor]:
        """The patch embedding less its mean over the channels, as a norm takes it off."""
        weight, bias = self.patches.weight, self.patches.bias
        return weight - weight.mean(0), bias - bias.mean()

    def _scores(
        self,
        mask_logits: Float[Tensor, "N R R"],
        pixels: Float[Tensor, "P k heads"],
        inside: Float[Tensor, "P heads"],
        outside: Float[Tensor, "P heads"],
        square: Float[Tensor, "k k"],
        linear: Float[Tensor, " k"],
        constant: Float[Tensor, ""],
    ) -> Float[Tensor, "N heads P"]:
        seen = to_patches(mask_logits.tanh().to(pixels.dtype), self.patch)  # (P, N, k)
        rows = seen.flatten(0, 1)
        variance = (torch.addmm(linear, rows, square) * rows).sum(-1) + constant
        spread = (variance.clamp(min=0) + self.norm.eps).rsqrt().view(*seen.shape[:2], 1)
        scores = torch.baddbmm(inside[:, None], seen, pixels) * spread + outside[:, None]
        return scores.permute(1, 2, 0)


class MaskRefinement(nn.Module):
    """Adds to each mask's logits what its token's query and the image's keys say of every pixel.

    Begins as released: weights by Kaiming's normal rule, biases from 0..1.

    Args:
        width: C, the channels of a token.
        heads: of the attention, for the scale of its queries.
        patch: pixels of a patch's side.
    """

    def __init__(self, width: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.query_scale = (width // heads) ** -0.5
        self.pixels = nn.Linear(width, patch**2)
        nn.init.kaiming_normal_(self.pixels.weight)
        nn.init.uniform_(self.pixels.bias)

    def forward(
        self,
        mask_logits: Float[Tensor, "B N R R"],
        queries: Float[Tensor, "B N C"],
        keys: Float[Tensor, "B P C"],
    ) -> Float[Tensor, "B N R R"]:
        """The refined mask logits; the given ones stay as they are.

        Args:
            mask_logits: at the size of CLIP's image.
            queries: of the mask tokens, as the attention projects them.
            keys: of the image's patches.
        """
        scaled = queries * (self.query_scale * QUICK_GELU)
        images = zip(mask_logits, scaled, keys, strict=True)
        return torch.stack(
            [in_chunks(self._refined, (own, asked), (read,), read) for own, asked, read in images]
        )

    @torch.no_grad()
    def add_nothing(self) -> None:
        """Makes the refined masks those that are given, until this is trained."""
        self.pixels.weight.zero_()
        self.pixels.bias.zero_()

    def _refined(
        self,
        mask_logits: Float[Tensor, "N R R"],
        queries: Float[Tensor, "N C"],
        keys: Float[Tensor, "P C"],
    ) -> Float[Tensor, "N R R"]:
        products = (queries[:, None] * keys).flatten(0, 1)
        hidden = F.silu(products, inplace=not products.requires_grad)
        pixels = torch.addmm(self.pixels.bias, hidden, self.pixels.weight.T, alpha=1 / QUICK_GELU)
        refined = from_patches(pixels, mask_logits.shape, self.patch)
        return mask_logits + refined.to(mask_logits.dtype)


def in_chunks(
    work: Callable[..., Tensor],
    masks: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    one: Tensor,
) -> Tensor:
    """The work on a few masks at a time; the backward pass keeps nothing of it and repeats it.

    Args:
        work: of the tensors of `masks` and then of `others`; its result has a row a mask.
        masks: tensors of one image, a row a mask.
        others: what every mask is put together with.
        one: a tensor as large as what the work holds of one mask.
    """
    limit = CACHED if one.device.type == "cpu" else BATCHED
    step = max(1, limit // max(1, one.numel()))
    chunks = zip(*(tensor.split(step) for tensor in masks), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([work(*chunk, *others) for chunk in chunks])
    return torch.cat(
        [
            checkpoint(work, *chunk, *others, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]
    )


def to_patches(masks: Float[Tensor, "N R R"], patch: int) -> Float[Tensor, "P N k"]:
    """The pixels of every patch, row by row, patches first."""
    grid = masks.shape[-1] // patch
    split = masks.view(len(masks), grid, patch, grid, patch)
    return split.permute(1, 3, 0, 2, 4).reshape(grid**2, len(masks), patch**2)


def from_patches(
    pixels: Float[Tensor, "rows k"], shape: torch.Size, patch: int
) -> Float[Tensor, "N R R"]:
    """Masks from the pixels of their patches: channel c of a patch is its pixel (c // p, c % p).

    Args:
        pixels: a row a patch, mask by mask.
        shape: of the masks.
        patch: p, pixels of a patch's side.
    """
    grid = shape[-1] // patch
    split = pixels.view(shape[0], grid, grid, patch, patch)
    return split.transpose(2, 3).reshape(shape)
