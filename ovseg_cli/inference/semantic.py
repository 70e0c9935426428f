"""The semantic map: the best class at every pixel, of the sum over masks of class x mask.

MaskFormer (NeurIPS 2021), section 3.4. Memory grows with neither masks nor classes times pixels.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ovseg_cli.inference.options import InferenceOptions
from ovseg_cli.inference.rows import best_rows, contenders
from ovseg_cli.structures import VOID, Frame
from ovseg_cli.upsampling import Region, probability_tiles

CHUNK = 1 << 22  # most class scores at once: 16 MB in fp32


def semantic_scores(
    class_probabilities: Float[Tensor, "N K"], mask_probabilities: Float[Tensor, "N H W"]
) -> Float[Tensor, "K H W"]:
    """Every class's score at every pixel: the sum over masks of class x mask probability.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
    """
    return torch.einsum("nk,nhw->khw", class_probabilities, mask_probabilities)


def semantic_map(
    class_probabilities: Float[Tensor, "N K"],
    mask_probabilities: Float[Tensor, "N H W"],
    *,
    threshold: float = 0.0,
    void_classes: int = 0,
) -> Int[Tensor, "H W"]:
    """The best class at every pixel; memory does not grow with the number of classes.

    Classes that are nowhere the best, whatever the masks do between their lowest and highest
    probability, are left out.

    Args:
        class_probabilities: (N, K).
        mask_probabilities: (N, H, W).
        threshold: where the best class's score is not above it, the map is void.
        void_classes: so many classes at the end are void.
    """
    size = mask_probabilities.shape[1:]
    flat = mask_probabilities.flatten(1)
    classes = contenders(flat.amax(1) @ class_probabilities, flat.amin(1) @ class_probabilities)
    step = max(1, CHUNK // size.numel())
    best, labels = mask_probabilities.new_full(size, -1.0).flatten(), classes.new_zeros(size)
    for chunk in classes.split(step):
        scores = semantic_scores(class_probabilities[:, chunk], mask_probabilities)
        chunk_best, places = best_rows(scores.flatten(1))
        better = chunk_best > best
        labels = torch.where(better.view(size), chunk[places].view(size), labels)
        best = torch.where(better, chunk_best, best)
    void = labels >= class_probabilities.shape[1] - void_classes
    if threshold:
        void |= best.view(size) <= threshold
    return labels.masked_fill(void, VOID)


class SemanticMap:
    """The best class at every pixel of an image, gathered region by region."""

    def __init__(
        self,
        class_probabilities: Tensor,
        frame: Frame,
        options: InferenceOptions,
        void_classes: int = 0,
    ) -> None:
        some = (class_probabilities > 0).any(-1)
        self.queries = some.nonzero()[:, 0]
        self.class_probabilities = class_probabilities[some]
        self.threshold, self.void_classes = options.semantic_threshold, void_classes
        nothing = VOID if self.threshold or void_classes else 0
        self.labels = torch.full(frame.original, nothing, device=class_probabilities.device)

    def add(self, region: Region, probabilities: Tensor) -> None:
        """Takes in a region's mask probabilities (n, r, c) of the queries."""
        if len(self.queries):
            self.labels[region] = semantic_map(
                self.class_probabilities,
                probabilities,
                threshold=self.threshold,
                void_classes=self.void_classes,
            )

    def add_resized(self, mask_logits: Tensor, frame: Frame) -> None:
        """All of the map, from the class scores at the resized image's size.

        Resizing scores is resizing mask probabilities, as both are linear. No mask is needed after
        that.
        """
        for region, probabilities in probability_tiles(mask_logits[self.queries], frame):
            self.add(region, probabilities)
        self.queries = self.queries[:0]
