"""CLIP's symmetric contrastive loss, for several captions an image, over all processes.

Radford et al., ICML 2021, section 2.3. Differs: an image may have several positive texts and a text
several images, as happens with equal captions: the target is then spread evenly over them. A text
that several rows or processes hold counts once.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.training.distributed import rank, world_size


def contrastive_losses(
    image_embeddings: Float[Tensor, "B D"],
    text_embeddings: Float[Tensor, "T D"],
    *,
    image_texts: Int[Tensor, "B P"],
    text_ids: Int[Tensor, " T"],
    scale: Float[Tensor, ""],
) -> dict[str, Tensor]:
    """Image-to-text and text-to-image cross-entropy over the global batch, each times 1/2.

    Args:
        image_embeddings: (B, D) of any length; the same B in every process.
        text_embeddings: (T, D) of any length; the same T in every process.
        image_texts: (B, P) ids of the positive texts of each image, all of them among the
            `text_ids` of some process.
        text_ids: (T,) equal for equal texts; -1 marks a row that only fills up.
        scale: CLIP's temperature as a factor on the cosines.
    """
    images = F.normalize(image_embeddings.float(), dim=-1)
    texts = F.normalize(text_embeddings.float(), dim=-1)
    all_images, all_texts = _gathered(images), _gathered(texts)
    all_image_texts, all_ids = _gathered(image_texts), _gathered(text_ids)
    copies = (all_ids[:, None] == all_ids).sum(dim=1)
    weights = torch.where(all_ids >= 0, 1 / copies, 0.0)  # the rows of one text share one vote
    own = slice(rank() * len(texts), (rank() + 1) * len(texts))

    with torch.autocast(images.device.type, enabled=False):  # logits of 100 need float32
        image_logits, text_logits = scale * images @ all_texts.T, scale * texts @ all_images.T
    positive = (image_texts[:, :, None] == all_ids).any(dim=1)  # (B, all texts)
    image_losses = _spread_cross_entropy(image_logits, positive, weights)
    positive = (text_ids[:, None, None] == all_image_texts).any(dim=-1)  # (T, all images)
    alike = torch.ones_like(all_images[:, 0])
    text_losses = _spread_cross_entropy(text_logits, positive, alike)
    return {
        "image_to_text": 0.5 * image_losses.sum() * world_size() / len(all_images),
        "text_to_image": 0.5 * (text_losses * weights[own]).sum() * world_size() / weights.sum(),
    }


def _spread_cross_entropy(
    logits: Float[Tensor, "R C"], positive: Bool[Tensor, "R C"], weights: Float[Tensor, " C"]
) -> Float[Tensor, " R"]:
    """Cross-entropy of each row with an even target; a column counts as `weights` columns."""
    log_total = (logits + weights.log()).logsumexp(dim=1, keepdim=True)
    target = positive * weights
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return (target * (log_total - logits)).sum(dim=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def _gathered(local: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; gradients flow back to each."""
    if world_size() == 1:
        return local
    rows: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return rows
