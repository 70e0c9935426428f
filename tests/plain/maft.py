"""MAFT's image-proposals encoder as released: one sequence, the attention bias made in full.

From the start layer on, as many class tokens as masks and the patches are one sequence, whose bias
of a row and a column a token is made anew in every layer, once a head, and handed to PyTorch's
fused attention as `nn.MultiheadAttention` does. Without masks the tower is run as it is. Frozen
weights are held without gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainImageProposals(nn.Module):
    """The same weights as an `ImageProposals`, used one sequence a forward pass."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.clip = encoder.clip
        self.visual = encoder.clip.model.visual if encoder.visual is None else encoder.visual
        self.start_layer, self.threshold = encoder.start_layer, encoder.threshold

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(images, masks), self.encode(images, None)[:, 0]

    def encode(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """(B, N, D) of masks; (B, 1, D) of whole images without."""
        visual = self.visual
        tokens, grid = self.first_tokens((images / 255 - self.clip.mean) / self.clip.std)
        count = 1 if masks is None else masks.shape[1]
        for index, block in enumerate(visual.transformer.resblocks):
            bias = None
            if masks is not None and index >= self.start_layer:
                if index == self.start_layer:
                    copies = tokens[:, :1].expand(-1, count, -1)
                    tokens = torch.cat([copies, tokens[:, 1:]], dim=1)
                bias = self.bias(masks, grid, block.attn.num_heads)
            tokens = tokens + self.attention(block.attn, block.ln_1(tokens), bias)
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return visual.ln_post(tokens[:, :count]) @ visual.proj

    def first_tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        visual = self.visual
        patches = visual.conv1(pixels)
        grid = tuple(patches.shape[-2:])
        table = visual.positional_embedding
        square = table[1:].T.unflatten(1, visual.grid_size)[None]
        square = F.interpolate(square, grid, mode="bicubic", align_corners=True)
        positions = torch.cat([table[:1], square[0].flatten(1).T])
        class_token = visual.class_embedding.expand(len(pixels), 1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return visual.ln_pre(tokens + positions), grid

    def bias(self, masks: Tensor, grid: tuple[int, int], heads: int) -> Tensor:
        """(B, heads, N + P, N + P) zero where a token may look, else minus infinity."""
        batch, count = masks.shape[:2]
        seen = F.interpolate(masks, grid, mode="bilinear").flatten(2) >= self.threshold
        length = count + seen.shape[-1]
        allowed = torch.zeros(batch, length, length, dtype=torch.bool, device=masks.device)
        allowed[:, :count, :count] = torch.eye(count, dtype=torch.bool, device=masks.device)
        allowed[:, :count, count:] = seen
        allowed[:, count:, count:] = True
        bias = torch.zeros(allowed.shape, dtype=masks.dtype, device=masks.device)
        bias = bias.masked_fill(~allowed, float("-inf"))
        return bias[:, None].repeat(1, heads, 1, 1)

    @staticmethod
    def attention(attention: nn.Module, normed: Tensor, bias: Tensor | None) -> Tensor:
        projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return attention.out_proj(attended.transpose(1, 2).flatten(2))
