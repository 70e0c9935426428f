"""MaskCLIP's relative mask attention as released: one sequence, every tensor made in full.

Frozen weights are held without gradient; the rows of the image are in the sequence that is
differentiated all the same. The attention mask is made anew in every layer. Refined masks are
tensors of their own, where the released code adds in place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainRelativeMaskAttention(nn.Module):
    """The same weights as a `RelativeMaskAttention`, used one sequence a forward pass."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.clip = encoder.clip
        self.layers = encoder.layers
        self.relations = encoder.relations
        self.refinements = encoder.refinements
        self.patch = encoder.clip.visual.patch_size[0]

    def forward(self, images: Tensor, mask_logits: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        visual, side = self.clip.visual, self.clip.resolution
        masks = torch.stack([self.resized(logits, side) for logits in mask_logits])
        batch, count = masks.shape[:2]
        patches = visual.conv1(self.clip.preprocess(images)).flatten(2).permute(0, 2, 1)
        class_token = visual.class_embedding.expand(batch, 1, -1)
        image = torch.cat([class_token, patches], dim=1) + visual.positional_embedding
        image = visual.ln_pre(image)
        tokens = torch.cat([image[:, :1].expand(-1, count, -1), image], dim=1)
        refined = []
        for index, block in enumerate(visual.transformer.resblocks):
            attended, addition = self.attention(index, block, block.ln_1(tokens), masks)
            tokens = tokens + attended
            tokens = tokens + block.mlp(block.ln_2(tokens))
            if addition is not None:
                masks = masks + addition
                refined.append(masks)
        embeddings = visual.ln_post(tokens[:, :count]) @ visual.proj
        return embeddings, tuple(refined) or (masks,)

    def resized(self, logits: Tensor, side: int) -> Tensor:
        return F.interpolate(logits[:, None], (side, side), mode="bilinear")[:, 0]

    def attention(
        self, index: int, block: nn.Module, normed: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        attention, count = block.attn, masks.shape[1]
        projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        queries = queries * queries.shape[-1] ** -0.5
        scores = queries @ keys.transpose(-2, -1)  # (B, heads, N + L, N + L)
        addition = None
        if index in self.layers:
            own, seen = queries[:, :, :count], keys[:, :, count + 1 :]
            relative = self.relative_scores(index, masks, normed[:, count + 1 :])
            joined = (scores[:, :, :count, count + 1 :] + relative) / 2
            above = torch.cat([scores[:, :, :count, : count + 1], joined], dim=-1)
            scores = torch.cat([above, scores[:, :, count:]], dim=2)
            if len(self.refinements):
                addition = self.refinement(index, own, seen)
        scores = scores.masked_fill(self.blocked(masks)[:, None], float("-inf"))
        attended = (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        return attention.out_proj(attended), addition

    def relative_scores(self, index: int, masks: Tensor, normed: Tensor) -> Tensor:
        """(B, heads, N, P) from the normed patches of the masks, (B, N, P, C) in full."""
        relation = self.relations[str(index)]
        weight = relation.patches.weight.unflatten(1, (1, self.patch, self.patch))
        pixels = masks.flatten(0, 1)[:, None].tanh()
        patches = F.conv2d(pixels, weight, relation.patches.bias, stride=self.patch)
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, masks.shape[:2])
        asked = relation.norm(patches) * relation.keys(normed)[:, None]
        by_head = asked.unflatten(-1, (relation.heads, -1)).sum(-1)  # (B, N, P, heads)
        return by_head.permute(0, 3, 1, 2) * (patches.shape[-1] // relation.heads) ** -0.5

    def refinement(self, index: int, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, N, R, R) from the products of queries and keys, (B, N, P, C) in full."""
        pixels = self.refinements[str(index)].pixels
        products = queries[:, :, :, None] * keys[:, :, None]  # (B, heads, N, P, d)
        products = products.permute(0, 2, 1, 4, 3).flatten(2, 3)  # (B, N, C, P)
        hidden = products * torch.sigmoid(1.702 * products)
        grid = round(keys.shape[2] ** 0.5)
        hidden = hidden.flatten(0, 1).unflatten(-1, (grid, grid))
        added = F.conv2d(hidden, pixels.weight[:, :, None, None], pixels.bias)
        batch, _, count, _ = queries.shape
        return F.pixel_shuffle(added, self.patch).unflatten(0, (batch, count))[:, :, 0]

    def blocked(self, masks: Tensor) -> Tensor:
        """(B, N + L, N + L) True where a token may not look."""
        batch, count = masks.shape[:2]
        inside = (masks.sigmoid() >= 0.5).to(masks.dtype)
        patches = F.max_pool2d(inside, self.patch, self.patch).flatten(2)
        length = count + 1 + patches.shape[-1]
        blocked = torch.zeros(batch, length, length, dtype=torch.bool, device=masks.device)
        blocked[:, :, :count] = True
        blocked[:, :count, count + 1 :] = patches == 0
        return blocked
