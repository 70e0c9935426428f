"""OVSeg's proposer: a MaskFormer whose masks have embeddings in CLIP's joint space.

Liang et al., Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP, CVPR 2023, section 3.1.
It learns the words of the seen classes, of which the frozen text tower makes embeddings; no other
part of the CLIP is read. What is no object lies nearest to the learned no-object embedding.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.cosine_logits import class_embeddings
from ovseg_cli.recipe import Share
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings

from ..imagenet_pixels import ImageNetPixels
from ..mask2former.mask_decoder import MaskPredictions
from ..mask2former.model import check_hidden_dim, check_size
from ..resnet import BackboneName, ResNet, freeze, resnet
from ..swin import SWINS, Swin, SwinName, swin
from .pixel_decoder import PixelDecoder
from .query_decoder import QueryDecoder

SCALE = 100.0  # of the cosines, as published; it does not learn
FREE_OPTIONS = ("drop_path", "dropout", "trained_stages")


class MaskFormer(nn.Module):
    """Masks with embeddings in CLIP's joint space; the defaults are the paper's with Swin-B.

    Args:
        clip: its joint space is learned; its towers are no part of the proposer.
        backbone: which Swin or ResNet; resnet10 has one basic block a stage, a final `c` is
            DeepLab's. The paper's other one is resnet101c with `trained_stages` 3.
        backbone_width: channels of the backbone's stem; None for its paper's.
        backbone_norm: of a ResNet: `frozen_batch` for ImageNet weights, `group` for training from
            scratch.
        trained_stages: how many of the backbone's stages learn, from the last; 5 is all.
        drop_path: of a Swin: share of left-out residuals of its last block while training.
        hidden_dim: channels of both decoders, a multiple of 32.
        mask_dim: channels of mask features.
        embedding_hidden_dim: hidden channels of the head that makes embeddings.
        queries: masks an image.
        heads: attention heads.
        decoder_layers: layers of the query decoder.
        feedforward_dim: hidden channels of their feed-forward networks.
        dropout: in the query decoder while training, 0 to 1.

    Raises:
        RecipeError: widths that do not fit.
    """

    def __init__(
        self,
        *,
        clip: ClipEncoder,
        backbone: SwinName | BackboneName = "swin_base",
        backbone_width: PositiveInt | None = None,
        backbone_norm: Literal["frozen_batch", "group"] = "frozen_batch",
        trained_stages: Annotated[int, Field(ge=0, le=5)] = 5,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.3,
        hidden_dim: PositiveInt = 256,
        mask_dim: PositiveInt = 256,
        embedding_hidden_dim: PositiveInt = 1024,
        queries: PositiveInt = 100,
        heads: PositiveInt = 8,
        decoder_layers: PositiveInt = 6,
        feedforward_dim: PositiveInt = 2048,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        check_hidden_dim(hidden_dim, heads)
        self.backbone: Swin | ResNet
        if backbone in SWINS:
            self.backbone = swin(backbone, width=backbone_width, drop_path=drop_path)
        else:
            self.backbone = resnet(backbone, width=backbone_width or 64, norm=backbone_norm)
        freeze(self.backbone, 5 - trained_stages)
        self.pixel_decoder = PixelDecoder(
            self.backbone.channels, hidden_dim=hidden_dim, mask_dim=mask_dim
        )
        self.query_decoder = QueryDecoder(
            self.backbone.channels[-1],
            hidden_dim=hidden_dim,
            mask_dim=mask_dim,
            embedding_dim=clip.embedding_dim,
            embedding_hidden_dim=embedding_hidden_dim,
            queries=queries,
            layers=decoder_layers,
            heads=heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
        )
        self.no_object = nn.Embedding(1, clip.embedding_dim)
        nn.init.normal_(self.no_object.weight, std=clip.embedding_dim**-0.5)
        self.normalised = ImageNetPixels()

    def forward(
        self, images: Float[Tensor, "B 3 H W"], texts: TextEmbeddings
    ) -> list[MaskPredictions]:
        """Predictions after every decoder layer, as class logits, no object last.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255; height and width multiples of 32.
            texts: the words to tell apart, without a background.
        """
        decoded = self.decoded(self.normalised(images), every_layer=True)
        return [
            MaskPredictions(self.class_logits(embeddings, texts), masks)
            for embeddings, masks in decoded
        ]

    def decoded(
        self, normalised: Float[Tensor, "B 3 H W"], *, every_layer: bool = False
    ) -> list[MaskPredictions]:
        """Predictions with embeddings in the place of class logits.

        Args:
            normalised: (B, 3, H, W) with ImageNet's mean and deviation taken out.
            every_layer: give those of every layer, the final one last.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        check_size((normalised.shape[-2], normalised.shape[-1]))
        levels = self.backbone(normalised)
        mask_features = self.pixel_decoder(levels)
        queries = self.query_decoder(levels[-1], every_layer=every_layer)
        masks = torch.einsum("lbqc,bchw->lbqhw", queries.masks, mask_features)
        return [MaskPredictions(*layer) for layer in zip(queries.embeddings, masks, strict=True)]

    def class_logits(
        self, embeddings: Float[Tensor, "B Q D"], texts: TextEmbeddings
    ) -> Float[Tensor, "B Q K"]:
        """A hundred times the cosine with the mean of each class's texts, and with no object last.

        Args:
            embeddings: (B, Q, D) of any length.
            texts: the words to tell apart, without a background.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            no_object = F.normalize(self.no_object.weight.float(), dim=-1)
            rows = torch.cat([class_embeddings(texts), no_object])
            return SCALE * F.normalize(embeddings.float(), dim=-1) @ rows.T

    @torch.no_grad()
    def propose(self, framed: FramedImage) -> Proposals:
        """One mask a query with its embedding.

        Padding counts as the mean colour, as in the released code, whatever pixels are there.

        Args:
            framed: the image, padded to multiples of 32.
        """
        return self._proposals(self.normalised.framed(framed), framed.frame)[0]

    @torch.no_grad()
    def propose_batch(self, images: Float[Tensor, "B 3 H W"]) -> list[Proposals]:
        """Each image's masks, one a query, with their embeddings.

        Args:
            images: RGB, 0 to 255, without padding; height and width multiples of 32.
        """
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        return self._proposals(self.normalised(images), frame)

    def _proposals(self, normalised: Tensor, frame: Frame) -> list[Proposals]:
        final = self.decoded(normalised)[-1]
        return [
            Proposals(
                masks.float(),
                frame,
                scores=masks.new_ones(len(masks), dtype=torch.float32),
                embeddings=embeddings.float(),
                no_object=self.no_object.weight[0].float(),
                logit_scale=SCALE,
            )
            for embeddings, masks in zip(final.classes, final.mask_logits, strict=True)
        ]
