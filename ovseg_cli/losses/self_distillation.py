"""Self-distillation: a tuned CLIP should call whole images what the frozen one calls them.

MAFT (Jiao et al., NeurIPS 2023), section 3.3, as released: SmoothL1 between class probabilities.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def self_distillation_loss(
    student_logits: Float[Tensor, "B K"], teacher_logits: Float[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """The mean SmoothL1 (beta 1) between the two's probabilities.

    Args:
        student_logits: of images by the tower that is tuned, without masks.
        teacher_logits: of the same images by the frozen tower; it gets no gradient.
    """
    student, teacher = student_logits.float().softmax(-1), teacher_logits.float().softmax(-1)
    return F.smooth_l1_loss(student, teacher.detach(), beta=1.0)
