"""FC-CLIP's proposer: a Mask2Former on CLIP's dense features, with class embeddings.

Yu et al., Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen CLIP,
NeurIPS 2023, section 3.3. The only backbone is the CLIP, frozen; with `trainable_clip` a copy of
its image tower learns too (table 6). The masks come without an object score: what is no object
lies nearest to the learned void embedding, beside whatever words are asked for.
"""

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ovseg_cli.clip.dense import DenseClip
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings

from .clip_class_head import ClipClassHead
from .mask_decoder import MaskDecoder, MaskPredictions
from .model import check_hidden_dim, check_size
from .pixel_decoder import PixelDecoder


class ClipMask2Former(nn.Module):
    """Masks with embeddings in CLIP's joint space; the defaults are the paper's.

    A frozen tower is the CLIP's own, and no part of the state dict.

    Args:
        clip: with a convolutional image tower.
        hidden_dim: channels of both decoders, a multiple of 32.
        mask_dim: channels of mask features and mask embeddings.
        queries: masks an image.
        heads: attention heads of both decoders.
        encoder_layers: deformable layers of the pixel decoder.
        encoder_feedforward_dim: hidden channels of their feed-forward networks.
        sampling_points: points a head and level of deformable attention.
        decoder_layers: layers of the mask decoder.
        feedforward_dim: hidden channels of their feed-forward networks.
        trainable_clip: whether a copy of the image tower learns with the rest.

    Raises:
        RecipeError: widths that do not fit.
        CheckpointError: the CLIP's image tower has no levels.
    """

    def __init__(
        self,
        *,
        clip: ClipEncoder,
        hidden_dim: PositiveInt = 256,
        mask_dim: PositiveInt = 256,
        queries: PositiveInt = 250,
        heads: PositiveInt = 8,
        encoder_layers: PositiveInt = 6,
        encoder_feedforward_dim: PositiveInt = 1024,
        sampling_points: PositiveInt = 4,
        decoder_layers: PositiveInt = 9,
        feedforward_dim: PositiveInt = 2048,
        trainable_clip: bool = False,
    ) -> None:
        super().__init__()
        check_hidden_dim(hidden_dim, heads)
        self.dense = DenseClip(clip, trainable=trainable_clip)
        self.pixel_decoder = PixelDecoder(
            self.dense.channels,
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            layers=encoder_layers,
            heads=heads,
            points=sampling_points,
            feedforward_dim=encoder_feedforward_dim,
        )
        self.mask_decoder = MaskDecoder(
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            queries=queries,
            layers=decoder_layers,
            heads=heads,
            feedforward_dim=feedforward_dim,
            class_head=ClipClassHead(
                hidden_dim=hidden_dim, mask_dim=mask_dim, embedding_dim=clip.embedding_dim
            ),
        )
        self.void_embedding = nn.Embedding(1, clip.embedding_dim)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], texts: TextEmbeddings
    ) -> list[MaskPredictions]:
        """Predictions of the queries and after every decoder layer, as class logits, void last.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255; height and width multiples of 32.
            texts: the words to tell apart, without a background.
        """
        check_size((images.shape[-2], images.shape[-1]))
        normalised = (images - self.dense.mean) / self.dense.std
        decoded = self.decoded(self.dense.levels(normalised), every_layer=True)
        embeddings = torch.stack([prediction.classes for prediction in decoded])
        logits = self.class_logits(embeddings.flatten(0, 2), texts).unflatten(
            0, embeddings.shape[:3]
        )
        return [
            MaskPredictions(classes, prediction.mask_logits)
            for classes, prediction in zip(logits, decoded, strict=True)
        ]

    def decoded(
        self, levels: tuple[Float[Tensor, "B _ _ _"], ...], *, every_layer: bool = False
    ) -> list[MaskPredictions]:
        """Predictions with embeddings in the place of class logits.

        Args:
            levels: CLIP's feature maps, see `DenseClip.levels`.
            every_layer: give those of the queries and of every layer, the final one last.
        """
        predictions: list[MaskPredictions] = self.mask_decoder(
            self.pixel_decoder(levels), every_layer=every_layer
        )
        return predictions

    def class_logits(
        self, embeddings: Float[Tensor, "N D"], texts: TextEmbeddings
    ) -> Float[Tensor, "N K"]:
        """Scaled cosines with the best synonym of each class, and with void in a last column.

        Args:
            embeddings: (N, D) of any length.
            texts: the words to tell apart, without a background.
        """
        void = TextEmbeddings(self.void_embedding.weight, texts.class_of.new_zeros(1))
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = [
                class_logits(embeddings.float(), rows, scale=1.0, synonyms="max")
                for rows in (texts, void)
            ]
            return self.scale() * torch.cat(cosines, dim=1)

    def scale(self) -> Float[Tensor, ""]:
        """The learned temperature."""
        head = self.mask_decoder.class_head
        assert isinstance(head, ClipClassHead)
        return head.scale()

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """One mask a query with its embedding; padding is zero after normalising, as released.

        Args:
            framed: the image, padded to multiples of 32.
        """
        check_size(framed.frame.padded)
        levels = tuple(level[None] for level in self.dense.encode(framed).levels)
        return self._proposals(levels, framed.frame)[0]

    @torch.no_grad()
    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks, one a query, with their embeddings.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        size = (images.shape[-2], images.shape[-1])
        check_size(size)
        normalised = (images.to(self.dense.mean.device) - self.dense.mean) / self.dense.std
        frame = Frame(padded=size, resized=size, original=size)
        return self._proposals(self.dense.levels(normalised), frame)

    def _proposals(self, levels: tuple[Tensor, ...], frame: Frame) -> list[Proposals]:
        final = self.decoded(levels)[-1]
        return [
            Proposals(
                masks.float(),
                frame,
                scores=masks.new_ones(len(masks), dtype=torch.float32),
                embeddings=embeddings.float(),
                no_object=self.void_embedding.weight[0].float(),
                logit_scale=self.scale().float(),
            )
            for embeddings, masks in zip(final.classes, final.mask_logits, strict=True)
        ]
