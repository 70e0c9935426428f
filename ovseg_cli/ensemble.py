"""The ensemble of an in-vocabulary and an out-of-vocabulary classifier.

FC-CLIP (Yu et al., NeurIPS 2023), section 3.3 and equation 6: a geometric mean of the two class
distributions, in which CLIP weighs little on classes that training had masks of and much on others.
As released and not in the paper: the mean is normalised over the classes again, and the void's
share, by the in-vocabulary classifier alone, is taken off. OVSeg (Liang et al., CVPR 2023), as
released, and MAFT (Jiao et al., NeurIPS 2023), as released: the plain product of the two,
`product`; MAFT's equation 9 has it on seen classes alone, and CLIP alone on the others,
`seen_product`. Everything is in log space.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Mean = Literal["geometric", "arithmetic"]
Ensemble = Literal["geometric", "arithmetic", "product", "seen_product", "none"]


def ensemble_weights(seen: Bool[Tensor, " K"], *, alpha: float, beta: float) -> Float[Tensor, " K"]:
    """The out-of-vocabulary classifier's weight on each class.

    Args:
        seen: True where training had masks of the class.
        alpha: on seen classes, 0 to 1.
        beta: on the others, 0 to 1.
    """
    weight = torch.full(seen.shape, beta, device=seen.device)
    return weight.masked_fill(seen, alpha)


def ensemble_log_probabilities(
    in_vocabulary: Float[Tensor, "N K1"],
    out_of_vocabulary: Float[Tensor, "N K"],
    weights: Float[Tensor, "#N K"],
    *,
    mean: Mean = "geometric",
) -> Float[Tensor, "N K"]:
    """Log of the class probabilities; a row's probabilities sum to one less the void's.

    Finite for finite logits, however unlikely a class is to one of the two.

    Args:
        in_vocabulary: (N, K+1) logits, the void's column last.
        out_of_vocabulary: (N, K) logits.
        weights: (N, K) or (1, K) of the out-of-vocabulary classifier, 0 to 1.
        mean: `geometric`, or `arithmetic` with the same weights (the paper's table 8).
    """
    ours = in_vocabulary[:, :-1].log_softmax(-1)
    clips = out_of_vocabulary.log_softmax(-1)
    if mean == "geometric":
        mixed = (1 - weights) * ours + weights * clips
    else:
        mixed = torch.logaddexp((1 - weights).log() + ours, weights.log() + clips)
    not_void = in_vocabulary.log_softmax(-1)[:, :-1].logsumexp(-1, keepdim=True)
    return mixed.log_softmax(-1) + not_void


def product_log_probabilities(
    in_vocabulary: Float[Tensor, "N K1"],
    out_of_vocabulary: Float[Tensor, "N K"],
    weights: Float[Tensor, "#N K"],
    valid: Bool[Tensor, " N"],
) -> Float[Tensor, "N K"]:
    """Log of p^(1 - weight) q^weight, which is not normalised again, for OVSeg's p and q.

    p is the in-vocabulary classifier's, whose void takes part in the softmax and is then left out;
    q is the other's, and 1 for a mask about which it has nothing to say.

    Args:
        in_vocabulary: (N, K+1) logits, the void's column last.
        out_of_vocabulary: (N, K) logits.
        weights: (N, K) or (1, K) of the out-of-vocabulary classifier, 0 to 1.
        valid: (N,) False where that one has nothing to say.
    """
    ours = in_vocabulary.log_softmax(-1)[:, :-1]
    clips = out_of_vocabulary.log_softmax(-1).masked_fill(~valid[:, None], 0.0)
    return (1 - weights) * ours + weights * clips


def seen_product_log_probabilities(
    in_vocabulary: Float[Tensor, "N K1"],
    out_of_vocabulary: Float[Tensor, "N K"],
    weights: Float[Tensor, "#N K"],
    valid: Bool[Tensor, " N"],
    seen: Bool[Tensor, " K"],
) -> Float[Tensor, "N K"]:
    """Log of p^(1 - weight) q^weight on seen classes and of q^weight on the others.

    MAFT, equation 9, where p is A_p and q is A_c. The equation says nothing of masks about which
    CLIP has nothing to say: here they are p^(1 - weight) of a seen class and 0 of any other.

    Args:
        in_vocabulary: (N, K+1) logits, the void's column last.
        out_of_vocabulary: (N, K) logits.
        weights: (N, K) or (1, K) of the out-of-vocabulary classifier, 0 to 1.
        valid: (N,) False where that one has nothing to say.
        seen: (K,) True where training had masks of the class.
    """
    product = product_log_probabilities(in_vocabulary, out_of_vocabulary, weights, valid)
    clips = weights * out_of_vocabulary.log_softmax(-1)
    return torch.where(seen, product, clips.masked_fill(~valid[:, None], -torch.inf))
