"""Mask class tokens: CLIP's class token once more for every mask, seeing that mask's patches only.

MaskCLIP (Ding et al., ICML 2023), section 3.2, with CLIP's own weights; MasQCLIP (Xu et al., ICCV
2023), section 3.3, with new query projections in every layer (MasQ-Tuning), and what its table 5
compares with them: keys, values, or a whole second tower.

A mask token reads the image and nothing reads it, so the frozen tower's keys and values are
computed once an image, without gradient, and N masks are N more queries. Same results as the
released code, which runs both kinds of token in one sequence and has "q" alone. As
released, and not in the papers: the token's position is a parameter of its own, tuned with the
rest; a mask sees a patch when any pixel of it has a positive logit; the class token is visible to
every mask, so that an empty mask sees something.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.vision_transformer import (
    ImageLayer,
    image_layers,
    own_queries,
    project_class_tokens,
    read_image,
    reread,
    second_tower,
    split_heads,
)
from ovseg_cli.errors import RecipeError
from ovseg_cli.mask_encoders.masq_projections import Init, Variant, new_projections
from ovseg_cli.mask_encoders.tuned_tensors import load_beside_clip, tensors_beside_clip
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals


class MaskClassTokens(nn.Module):
    """Masks in CLIP's joint space, through tokens that see the masked patches of the whole image.

    The CLIP is frozen: its parameters no longer require gradients once it is handed over here, and
    its image tokens are what they were whatever is tuned.

    Args:
        clip: the CLIP, whose image tower must be a plain vision transformer.
        variant: what the mask tokens have of their own, trainable: "freeze" nothing; "q", "k", "v",
            "qk", "qkv" those projections in every layer; "clip" a whole second tower (class token,
            norms, attention, MLPs and output projection) that makes its own keys and values of the
            first one's image tokens. All but "freeze" train the tokens' position too. The paper
            counts patch convolution and positions (1.2 of 304 million) to the second tower, which
            no mask token passes through. The backward pass keeps every layer's keys and values of
            the image, and where they are tuned its tokens too.
        init: how new projections begin: "released" queries as PyTorch's linear layer, keys and
            values as CLIP's (the released code has queries alone; random values would destroy the
            space of features); "random" all as PyTorch's; "clip" all as CLIP's. A second tower
            begins as CLIP's.
        seed: of a random beginning.

    Raises:
        CheckpointError: the image tower is of another kind.
        RecipeError: a second tower that begins random.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        variant: Variant = "freeze",
        init: Init = "released",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if variant == "clip" and init == "random":
            raise RecipeError(
                "[mask_encoder] init: a second tower begins as CLIP's and not random; set init to "
                "clip"
            )
        self.variant, self.init = variant, init
        self.clip = clip.requires_grad_(False)
        position = clip.visual.positional_embedding[0].detach().clone()
        self.mask_position = nn.Parameter(position, requires_grad=variant != "freeze")
        options: dict[str, Any] = {"variant": variant, "init": init, "seed": seed}
        self.query_projections = new_projections(clip, "q", **options)
        self.key_projections = new_projections(clip, "k", **options)
        self.value_projections = new_projections(clip, "v", **options)
        self.tower = second_tower(clip.visual) if variant == "clip" else None

    def forward(
        self, images: Float[Tensor, "B 3 H W"], visible: Bool[Tensor, "B N P"]
    ) -> Float[Tensor, "B N D"]:
        """Embeddings of every image's masks, not normalised, float32.

        Args:
            images: RGB, 0 to 255, whole and padded as the proposer saw them.
            visible: from `visible_patches`; rows without any patch, such as padding where images
                have fewer masks, see the class token alone.
        """
        visual = self.clip.visual
        own = visual if self.tower is None else self.tower
        visible = F.pad(visible, (1, 0), value=True)  # (B, N, L): every mask sees the class token
        start = own.ln_pre(own.class_embedding + self.mask_position)
        tokens = start.expand(*visible.shape[:2], -1)  # (B, N, C)
        layers = image_layers(visual, self.clip.preprocess(images))
        for index, image in enumerate(layers):
            block = own.transformer.resblocks[index]
            queries = self._queries(index, block.ln_1(tokens))
            tokens = read_image(block, tokens, queries, self._image(index, image), visible)
        embeddings = project_class_tokens(own, tokens)
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def train(self, mode: bool = True) -> "MaskClassTokens":
        """Training mode for what is tuned; the CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def tuned_tensors(self) -> dict[str, Tensor]:
        """What MasQ-Tuning trains, by name: all that an artifact has to keep."""
        return tensors_beside_clip(self)

    def load_tuned_tensors(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes what `tuned_tensors` gave, see `load_beside_clip`."""
        load_beside_clip(self, tensors, source=source)

    def _queries(self, index: int, normed: Tensor) -> Tensor:
        if self.query_projections is None:
            own = self.clip.visual if self.tower is None else self.tower
            return own_queries(own.transformer.resblocks[index], normed)
        queries: Tensor = self.query_projections[index](normed)
        return queries

    def _image(self, index: int, image: ImageLayer) -> ImageLayer:
        """The image's keys and values as the mask tokens read them."""
        if self.tower is not None:
            return reread(self.tower.transformer.resblocks[index], image)
        heads = image.keys.shape[1]
        if self.key_projections is not None:
            keys = split_heads(self.key_projections[index](image.normed), heads)
            image = image._replace(keys=keys)
        if self.value_projections is not None:
            values = split_heads(self.value_projections[index](image.normed), heads)
            image = image._replace(values=values)
        return image

    @torch.no_grad()
    def visible_patches(self, mask_logits: Float[Tensor, "B N h w"]) -> Bool[Tensor, "B N P"]:
        """Which patches each mask's token may see: those with a pixel whose logit is above 0.

        Args:
            mask_logits: over the same area as the images, at any stride.
        """
        visual, side = self.clip.visual, self.clip.resolution
        if mask_logits.shape[1] == 0:
            return mask_logits.new_zeros(len(mask_logits), 0, visual.grid_size[0] ** 2).bool()
        at_pixels = F.interpolate(mask_logits.float(), (side, side), mode="bilinear")
        at_patches = F.max_pool2d(at_pixels, side // visual.grid_size[0])
        return at_patches.flatten(2) > 0

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them; the masks pass through."""
        device = self.clip.device
        visible = self.visible_patches(proposals.mask_logits[None].to(device))
        embeddings = self(framed.pixels[None].to(device), visible)[0]
        valid = torch.ones(len(embeddings), dtype=torch.bool, device=device)
        return EncodedMasks(embeddings, proposals.mask_logits, valid)
