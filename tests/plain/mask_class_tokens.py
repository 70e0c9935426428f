"""MasQCLIP's mask class tokens as released: mask and image tokens in one sequence, layer by layer.

Frozen weights are held without gradient, as the released code holds them; the rows of the image are
in the sequence that is differentiated all the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainMaskClassTokens(nn.Module):
    """The same weights as a `MaskClassTokens`, used one sequence a forward pass."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.clip = encoder.clip
        self.mask_position = encoder.mask_position
        self.query_projections = encoder.query_projections

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        visual = self.clip.visual
        blocked = self.blocked(mask_logits)
        count = blocked.shape[1]
        pixels = self.clip.preprocess(images)
        patches = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
        batch = len(patches)
        class_token = visual.class_embedding.expand(batch, 1, -1)
        image = torch.cat([class_token, patches], dim=1) + visual.positional_embedding
        masks = (visual.class_embedding + self.mask_position).expand(batch, count, -1)
        tokens = visual.ln_pre(torch.cat([masks, image], dim=1))
        for index, block in enumerate(visual.transformer.resblocks):
            tokens = tokens + self.attention(index, block, block.ln_1(tokens), blocked)
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return visual.ln_post(tokens[:, :count]) @ visual.proj

    def attention(self, index: int, block: nn.Module, normed: Tensor, blocked: Tensor) -> Tensor:
        attention, count = block.attn, blocked.shape[1]
        weights = attention.in_proj_weight.chunk(3)
        biases = attention.in_proj_bias.chunk(3)
        image = normed[:, count:].detach()
        queries, keys, values = (
            self.heads(F.linear(image, weight, bias), attention.num_heads)
            for weight, bias in zip(weights, biases, strict=True)
        )
        projection = self.query_projections
        masks = normed[:, :count]
        mask_queries = (
            F.linear(masks, weights[0], biases[0])
            if projection is None
            else projection[index](masks)
        )
        bias = torch.zeros(blocked.shape, dtype=queries.dtype, device=queries.device)
        bias = bias.masked_fill(blocked, float("-inf"))
        bias = bias[:, None].repeat(1, attention.num_heads, 1, 1)
        attended = torch.cat(
            [
                self.attend(self.heads(mask_queries, attention.num_heads), keys, values, bias),
                self.attend(queries, keys, values, 0.0),
            ],
            dim=2,
        )
        return attention.out_proj(attended.transpose(1, 2).flatten(2))

    @staticmethod
    def heads(tokens: Tensor, heads: int) -> Tensor:
        return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)

    @staticmethod
    def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float) -> Tensor:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
        return (scores + bias).softmax(dim=-1) @ values

    def blocked(self, mask_logits: Tensor) -> Tensor:
        """(B, N, 1 + P) True where a mask token may not look."""
        side, grid = self.clip.resolution, self.clip.visual.grid_size[0]
        rows = []
        for logits in mask_logits:
            pixels = F.interpolate(logits[:, None], (side, side), mode="bilinear")
            patches = F.max_pool2d(pixels, side // grid, side // grid)[:, 0].flatten(1)
            rows.append(torch.cat([torch.zeros(len(logits), 1).bool(), ~(patches > 0)], dim=1))
        return torch.stack(rows)
