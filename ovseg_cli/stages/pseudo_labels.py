"""What a model finds of unseen classes in its own training images, to learn from it.

MAFT (Jiao et al., NeurIPS 2023), table 8: self-training, for which the unseen classes' words are
known. The paper gives no details: here it is the pixels that nobody annotated and whose semantic
map shows an unseen class with enough of a share in all classes' scores.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.structures import TextEmbeddings


@dataclass(frozen=True)
class PseudoLabels:
    """A frozen model and the choice among what it finds.

    Attributes:
        encoder: not tuned any further.
        texts: of all classes, seen and unseen, on the encoder's device.
        classification: CLIP's temperature, and what becomes of a class's several texts.
        unseen: of all classes those to look for.
        least_score: a pixel's class has at least this share in the scores of all classes.
    """

    encoder: ImageProposals
    texts: TextEmbeddings
    classification: Classification
    unseen: Bool[Tensor, " K"]
    least_score: float

    @torch.no_grad()
    def found(
        self,
        image: Float[Tensor, "3 S S"],
        likely: Float[Tensor, "N g g"],
        mask_logits: Float[Tensor, "N h w"],
        annotated: Bool[Tensor, "M H W"],
    ) -> tuple[Bool[Tensor, "A H W"], Int[Tensor, " A"]]:
        """The masks of unseen classes in an image, one a class, and the classes, on the CPU.

        Args:
            image: RGB, 0 to 255, squashed to the encoder's input size.
            likely: the proposals' probabilities on the encoder's grid.
            mask_logits: the same proposals.
            annotated: masks, crowds among them, whose pixels are not asked about.
        """
        embeddings = self.encoder.mask_embeddings(image[None], likely[None])[0]
        probabilities = class_logits(
            embeddings,
            self.texts,
            scale=self.classification.temperature,
            synonyms=self.classification.synonyms,
        ).softmax(-1)
        scores = torch.einsum("nk,nhw->khw", probabilities, mask_logits.float().sigmoid())
        shares, classes = (scores / scores.sum(0).clamp(min=1e-6)).max(0)
        sure = (shares >= self.least_score) & self.unseen.to(classes.device)[classes]
        shown = torch.where(sure, classes, -1).cpu()
        free = ~annotated.any(0)
        size = (annotated.shape[1], annotated.shape[2])
        at_image = F.interpolate(shown[None, None].float(), size, mode="nearest-exact")[0, 0].long()
        at_image = torch.where(free, at_image, -1)
        labels = at_image.unique()
        labels = labels[labels >= 0]
        return at_image[None] == labels[:, None, None], labels
