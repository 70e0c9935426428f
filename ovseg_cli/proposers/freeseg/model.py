"""FreeSeg's proposer: a Mask2Former whose pixels read the words, with embeddings in CLIP's space.

Qin et al., FreeSeg, CVPR 2023, as MAFT (Jiao et al., NeurIPS 2023) is released with: semantic
masks, one set of templates, no learned prompts. What it proposes depends on the vocabulary, so it
is no `Proposer` until it is given one. What is no object lies nearest to the learned no-object
embedding, which the pixels read beside the words.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.cosine_logits import class_embeddings
from ovseg_cli.errors import RecipeError
from ovseg_cli.recipe import Share
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings

from ..imagenet_pixels import ImageNetPixels
from ..mask2former.mask_decoder import MaskDecoder, MaskPredictions
from ..mask2former.model import check_hidden_dim, check_size
from ..mask2former.pixel_decoder import PixelDecoder
from ..resnet import BackboneName, resnet
from .text_interaction import TextInteraction, WordMemory

SCALE = 100.0  # of the cosines, as published; it does not learn
FREE_OPTIONS = ("dropout",)


class FreeSeg(nn.Module):
    """Masks with embeddings in CLIP's joint space; the defaults are the released ones.

    Args:
        clip: its joint space is learned; its towers are no part of the proposer.
        backbone: which ResNet; resnet10 has one basic block a stage, a final `c` is DeepLab's.
        backbone_width: channels of the backbone's stem.
        backbone_norm: `frozen_batch` for ImageNet weights, `group` for training from scratch.
        hidden_dim: channels of both decoders and of the mask features, a multiple of 32.
        embedding_hidden_dim: hidden channels of the head that makes embeddings.
        queries: masks an image.
        heads: attention heads of both decoders, and of the pixels' attention to the words.
        interaction_dim: channels of all heads of that attention, a multiple of `heads`.
        encoder_layers: deformable layers of the pixel decoder.
        encoder_feedforward_dim: hidden channels of their feed-forward networks.
        sampling_points: points a head and level of deformable attention.
        decoder_layers: layers of the mask decoder.
        feedforward_dim: hidden channels of their feed-forward networks.
        dropout: in the pixel decoder and the attention to the words while training, 0 to 1.

    Raises:
        RecipeError: widths that do not fit.
    """

    def __init__(
        self,
        *,
        clip: ClipEncoder,
        backbone: BackboneName = "resnet101c",
        backbone_width: PositiveInt = 64,
        backbone_norm: Literal["frozen_batch", "group"] = "frozen_batch",
        hidden_dim: PositiveInt = 256,
        embedding_hidden_dim: PositiveInt = 1024,
        queries: PositiveInt = 100,
        heads: PositiveInt = 8,
        interaction_dim: PositiveInt = 2048,
        encoder_layers: PositiveInt = 6,
        encoder_feedforward_dim: PositiveInt = 1024,
        sampling_points: PositiveInt = 4,
        decoder_layers: PositiveInt = 9,
        feedforward_dim: PositiveInt = 2048,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        check_hidden_dim(hidden_dim, heads)
        if interaction_dim % heads:
            raise RecipeError(
                f"[proposer] interaction_dim: {interaction_dim} is not a multiple of heads "
                f"({heads}); choose one that is"
            )
        self.pixels = ImageNetPixels()
        self.backbone = resnet(backbone, width=backbone_width, norm=backbone_norm)
        self.pixel_decoder = PixelDecoder(
            self.backbone.channels,
            hidden_dim=hidden_dim,
            mask_dim=hidden_dim,
            layers=encoder_layers,
            heads=heads,
            points=sampling_points,
            feedforward_dim=encoder_feedforward_dim,
            dropout=dropout,
        )
        self.interaction = TextInteraction(
            hidden_dim=hidden_dim,
            embedding_dim=clip.embedding_dim,
            heads=heads,
            inner_dim=interaction_dim,
            dropout=dropout,
        )
        self.mask_decoder = MaskDecoder(
            hidden_dim=hidden_dim,
            mask_dim=hidden_dim,
            queries=queries,
            layers=decoder_layers,
            heads=heads,
            feedforward_dim=feedforward_dim,
            class_head=nn.Sequential(
                nn.Linear(hidden_dim, embedding_hidden_dim),
                nn.ReLU(inplace=True),
                nn.Linear(embedding_hidden_dim, clip.embedding_dim),
            ),
        )
        self.no_object = nn.Embedding(1, clip.embedding_dim)
        nn.init.normal_(self.no_object.weight, std=clip.embedding_dim**-0.5)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], texts: TextEmbeddings
    ) -> list[MaskPredictions]:
        """Class logits, no object last, and masks of the queries and after every decoder layer.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255; height and width multiples of 32.
            texts: the words to tell apart, without a background.
        """
        words = self.words(texts)
        decoded = self.decoded(
            self.pixels(images), self.interaction.memory(words), every_layer=True
        )
        with torch.autocast(images.device.type, enabled=False):
            return [
                MaskPredictions(SCALE * F.normalize(embeddings.float(), dim=-1) @ words.T, masks)
                for embeddings, masks in decoded
            ]

    def words(self, texts: TextEmbeddings) -> Float[Tensor, "K1 D"]:
        """The mean of each class's texts and the no-object embedding, all of unit length.

        Args:
            texts: of K classes; a background is left out, no object being there in its place.
        """
        classes = class_embeddings(texts.to(self.no_object.weight.device))
        classes = classes[:-1] if texts.has_background else classes
        return torch.cat([classes, F.normalize(self.no_object.weight, dim=-1)])

    def decoded(
        self,
        normalised: Float[Tensor, "B 3 H W"],
        memory: WordMemory,
        *,
        every_layer: bool = False,
    ) -> list[MaskPredictions]:
        """Predictions with embeddings in the place of class logits.

        Args:
            normalised: (B, 3, H, W) with ImageNet's mean and deviation taken out.
            memory: of the words, see `TextInteraction.memory`.
            every_layer: give those of the queries and of every layer, the final one last.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        check_size((normalised.shape[-2], normalised.shape[-1]))
        pixels = self.pixel_decoder(self.backbone(normalised))
        predictions: list[MaskPredictions] = self.mask_decoder(
            self.interaction(pixels, memory), every_layer=every_layer
        )
        return predictions

    def with_words(self, texts: TextEmbeddings) -> "FreeSegWithWords":
        """The proposer for one vocabulary.

        Args:
            texts: of its classes, from the CLIP of the proposer's training.
        """
        return FreeSegWithWords(self, texts)


class FreeSegWithWords:
    """A trained FreeSeg that proposes masks for the classes of one vocabulary.

    What the pixels read of the words is worked out once for all images.
    """

    @torch.no_grad()
    def __init__(self, model: FreeSeg, texts: TextEmbeddings) -> None:
        """Reads the words.

        Args:
            model: in eval mode.
            texts: of its classes.
        """
        self.model = model
        self.memory = model.interaction.memory(model.words(texts))

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """One mask a query with its embedding.

        Args:
            framed: the image, padded to multiples of 32.
        """
        return self._proposals(self.model.pixels.framed(framed), framed.frame)[0]

    @torch.no_grad()
    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks, one a query, with their embeddings.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        return self._proposals(self.model.pixels(images), frame)

    def _proposals(self, normalised: Tensor, frame: Frame) -> list[Proposals]:
        final = self.model.decoded(normalised, self.memory)[-1]
        return [
            Proposals(
                masks.float(),
                frame,
                scores=masks.new_ones(len(masks), dtype=torch.float32),
                embeddings=embeddings.float(),
                no_object=self.model.no_object.weight[0].float(),
                logit_scale=SCALE,
            )
            for embeddings, masks in zip(final.classes, final.mask_logits, strict=True)
        ]
