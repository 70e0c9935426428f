"""MasQCLIP's mask class tokens as released: mask and image tokens in one sequence, layer by layer.

Frozen weights are held without gradient, as the released code holds them; the rows of the image are
in the sequence that is differentiated all the same. The variants that were not released (keys,
values, a second tower) are written the same way, from the paper's table 5.
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
        self.projections = (
            encoder.query_projections,
            encoder.key_projections,
            encoder.value_projections,
        )
        self.tower = encoder.tower

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        visual = self.clip.visual
        own = self.tower or visual
        blocked = self.blocked(mask_logits)
        count = blocked.shape[1]
        pixels = self.clip.preprocess(images)
        patches = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
        batch = len(patches)
        class_token = visual.class_embedding.expand(batch, 1, -1)
        image = torch.cat([class_token, patches], dim=1) + visual.positional_embedding
        masks = (own.class_embedding + self.mask_position).expand(batch, count, -1)
        if self.tower is not None:
            return self.two_towers(masks, image, blocked)
        tokens = visual.ln_pre(torch.cat([masks, image], dim=1))
        for index, block in enumerate(visual.transformer.resblocks):
            tokens = tokens + self.attention(index, block, block.ln_1(tokens), blocked)
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return visual.ln_post(tokens[:, :count]) @ visual.proj

    def two_towers(self, masks: Tensor, image: Tensor, blocked: Tensor) -> Tensor:
        """The image in the frozen tower, the masks in the other, which reads the image's tokens."""
        visual, own = self.clip.visual, self.tower
        masks, image = own.ln_pre(masks), visual.ln_pre(image)
        heads = visual.transformer.resblocks[0].attn.num_heads
        bias = self.bias(blocked, heads, masks)
        for frozen, block in zip(
            visual.transformer.resblocks, own.transformer.resblocks, strict=True
        ):
            queries, _, _ = self.projected(block, block.ln_1(masks))
            _, keys, values = self.projected(block, block.ln_1(image.detach()))
            attended = self.attend(queries, keys, values, bias)
            masks = masks + block.attn.out_proj(attended.transpose(1, 2).flatten(2))
            masks = masks + block.mlp(block.ln_2(masks))
            attended = self.attend(*self.projected(frozen, frozen.ln_1(image)), 0.0)
            image = image + frozen.attn.out_proj(attended.transpose(1, 2).flatten(2))
            image = image + frozen.mlp(frozen.ln_2(image))
        return own.ln_post(masks) @ own.proj

    def projected(self, block: nn.Module, normed: Tensor) -> list[Tensor]:
        attention = block.attn
        projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        return [self.heads(part, attention.num_heads) for part in projected.chunk(3, dim=-1)]

    def attention(self, index: int, block: nn.Module, normed: Tensor, blocked: Tensor) -> Tensor:
        attention, count = block.attn, blocked.shape[1]
        weights = attention.in_proj_weight.chunk(3)
        biases = attention.in_proj_bias.chunk(3)
        image = normed[:, count:].detach()
        queries, keys, values = (
            self.heads(F.linear(image, weight, bias), attention.num_heads)
            for weight, bias in zip(weights, biases, strict=True)
        )
        masks = normed[:, :count]
        new_queries, new_keys, new_values = self.projections
        mask_queries = (
            F.linear(masks, weights[0], biases[0])
            if new_queries is None
            else new_queries[index](masks)
        )
        bias = self.bias(blocked, attention.num_heads, queries)
        keys_of_masks, values_of_masks = (
            own if new is None else self.heads(new[index](image), attention.num_heads)
            for own, new in ((keys, new_keys), (values, new_values))
        )
        attended = torch.cat(
            [
                self.attend(
                    self.heads(mask_queries, attention.num_heads),
                    keys_of_masks,
                    values_of_masks,
                    bias,
                ),
                self.attend(queries, keys, values, 0.0),
            ],
            dim=2,
        )
        return attention.out_proj(attended.transpose(1, 2).flatten(2))

    @staticmethod
    def bias(blocked: Tensor, heads: int, like: Tensor) -> Tensor:
        """(B, heads, N, 1 + P) zero where a mask token may look, else minus infinity."""
        bias = torch.zeros(blocked.shape, dtype=like.dtype, device=like.device)
        bias = bias.masked_fill(blocked, float("-inf"))
        return bias[:, None].repeat(1, heads, 1, 1)

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
