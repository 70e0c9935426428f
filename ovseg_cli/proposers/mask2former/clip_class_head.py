"""FC-CLIP's class head: masks in CLIP's joint space, from the features inside them and the queries.

Yu et al., Convolutions Die Hard, NeurIPS 2023, section 3.3, the in-vocabulary classifier. As
released, and not in the paper: the query is added to what was pooled.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST_AREA = 1e-8  # as released: an empty mask pools to the zero vector
INITIAL_TEMPERATURE = 0.07
LARGEST_SCALE = 100.0


class ClipClassHead(nn.Module):
    """Embeddings of masks from mask features pooled inside them, with a learned temperature.

    Args:
        hidden_dim: channels of the queries.
        mask_dim: channels of the mask features.
        embedding_dim: of CLIP's joint space.
    """

    def __init__(self, *, hidden_dim: int, mask_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, hidden_dim))
        self.embed = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, embedding_dim),
        )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        mask_logits: Float[Tensor, "B Q h w"],
        mask_features: Float[Tensor, "B M h w"],
    ) -> Float[Tensor, "B Q D"]:
        """One embedding a query, not normalised; no gradient flows through the masks.

        Args:
            queries: (B, Q, C) after the decoder's norm.
            mask_logits: (B, Q, h, w) of the same queries, above 0 is inside.
            mask_features: (B, M, h, w) what is pooled.
        """
        pooled = self.pooled(pooled_inside(mask_features, mask_logits))
        embeddings: Tensor = self.embed(pooled + queries)
        return embeddings

    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by, at most 100."""
        return self.logit_scale.exp().clamp(max=LARGEST_SCALE)


def pooled_inside(
    mask_features: Float[Tensor, "B M h w"], mask_logits: Float[Tensor, "B Q h w"]
) -> Float[Tensor, "B Q M"]:
    """The mean of the features inside each mask, zero for an empty one; gradient to features alone.

    Args:
        mask_features: (B, M, h, w) what is pooled.
        mask_logits: (B, Q, h, w) above 0 is inside.
    """
    inside = (mask_logits.detach() > 0).flatten(2).to(mask_features.dtype)  # (B, Q, P)
    sums = inside @ mask_features.flatten(2).transpose(1, 2)
    return sums / (inside.sum(-1, keepdim=True) + SMALLEST_AREA)
