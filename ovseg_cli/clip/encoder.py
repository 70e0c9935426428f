"""A CLIP as the other parts see it: words and images in, rows of the joint space out."""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.vision_transformer import plain_vision_transformer
from ovseg_cli.errors import VocabularyError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(nn.Module):
    """An open_clip model with its preprocessing, read without gradient.

    Args:
        model: open_clip's CLIP; neither copied nor changed.
        mean: of the RGB channels in 0..1, taken off before the image tower.
        std: of the RGB channels in 0..1.
    """

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def visual(self) -> open_clip.transformer.VisionTransformer:
        """The image tower, a plain vision transformer.

        Raises:
            CheckpointError: it is of another kind.
        """
        return plain_vision_transformer(self.model.visual)

    @property
    def resolution(self) -> int:
        """The side of the square that the image tower takes, in pixels."""
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, tuple) else size)

    @property
    def embedding_dim(self) -> int:
        """D, the size of the joint space."""
        return int(self.model.text_projection.shape[1])

    @property
    def logit_scale(self) -> float:
        """The learned temperature: cosines are multiplied by it."""
        return float(self.model.logit_scale.detach().exp())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def preprocess(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 R R"]:
        """Whole images squashed to the tower's square and normalised, as MasQCLIP publishes it.

        Bicubic without antialiasing and without clamping; the aspect ratio is lost.

        Args:
            images: RGB, 0 to 255, of any size.
        """
        size = (self.resolution, self.resolution)
        images = F.interpolate(images / 255, size=size, mode="bicubic", align_corners=False)
        return ((images - self.mean) / self.std).to(self.model.logit_scale.dtype)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """The token ids of texts, (T, context length) int64.

        Raises:
            VocabularyError: a text has more tokens than the text tower can read.
        """
        length = self.model.context_length
        tokens: Tensor = open_clip.tokenize(list(texts), context_length=length + 1)
        for text, row in zip(texts, tokens, strict=True):
            if row[length] != 0:
                raise VocabularyError(
                    f"label {text[:40]!r}...: longer than the {length - 2} tokens that this CLIP "
                    "reads; use a shorter description"
                )
        return tokens[:, :length]

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], batch_size: int = 128) -> Float[Tensor, "T D"]:
        """Texts in the joint space, float32 and not normalised.

        Args:
            texts: T words or sentences, no template is added.
            batch_size: texts at a time; it changes memory and nothing else.

        Raises:
            VocabularyError: a text is too long.
        """
        if not texts:
            return torch.zeros(0, self.embedding_dim, device=self.device)
        batches = self.tokenize(texts).to(self.device).split(batch_size)
        return torch.cat([self.model.encode_text(batch).float() for batch in batches])

    @torch.no_grad()
    def encode_image(
        self, images: Float[Tensor, "B 3 H W"], batch_size: int = 64
    ) -> Float[Tensor, "B D"]:
        """Whole images in the joint space, float32 and not normalised.

        Args:
            images: RGB, 0 to 255, of any size.
            batch_size: images at a time; it changes memory and nothing else.
        """
        batches = images.to(self.device).split(batch_size)
        return torch.cat(
            [self.model.encode_image(self.preprocess(batch)).float() for batch in batches]
        )
