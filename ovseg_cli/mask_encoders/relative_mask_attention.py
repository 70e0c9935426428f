"""Relative mask attention: mask class tokens that read their masks' shapes, and refine them.

MaskCLIP (Ding et al., ICML 2023), sections 3.2 and 3.3. The tokens are frozen mask class tokens; in
some layers their attention also relates patches of the mask to patches of the image, and what it
asked of the image is added to the mask, which the next layers then see.

Same results as the released code, which runs mask and image tokens in one sequence. As released,
and not in the paper: the scores of the image's patches are halved and that of the class token is
not; a mask sees a patch when any pixel of it has a logit of at least 0. Differs: every refinement
gives masks of its own, and the caller's stay as they were; the released code adds in place.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.vision_transformer import (
    ImageLayer,
    finish_block,
    image_layers,
    own_queries,
    project_class_tokens,
    read_image,
    split_heads,
)
from ovseg_cli.errors import RecipeError
from ovseg_cli.mask_encoders.mask_relations import MaskRefinement, RelativeScores
from ovseg_cli.mask_encoders.tuned_tensors import load_beside_clip, tensors_beside_clip
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals

PADDING = {"mean": (123.675, 116.28, 103.53), "black": (0.0, 0.0, 0.0)}


class RefinedMasks(NamedTuple):
    """What becomes of a batch's masks.

    Attributes:
        embeddings: in CLIP's joint space, not normalised, float32.
        mask_logits: after each refinement, at the size of CLIP's image and over the same area as
            the masks given; without refinement, those masks alone.
    """

    embeddings: Float[Tensor, "B N D"]
    mask_logits: tuple[Float[Tensor, "B N R R"], ...]


class RelativeMaskAttention(nn.Module):
    """Masks in CLIP's joint space, refined on the way there.

    The CLIP is frozen: its parameters no longer require gradients once it is handed over here.

    Args:
        clip: the CLIP, whose image tower must be a plain vision transformer.
        layers: those with relative mask attention, from 0; None for the last of every quarter,
            which are 5, 11, 17 and 23 of 24.
        refine: whether they refine the masks too; without, the masks pass through (the paper's
            table 8).
        init: "released" draws weights by Kaiming's normal rule and the biases of the convolutions
            from 0..1, which raises every mask logit by about 0.5 a layer; "identity" begins with
            masks that pass through and as near to frozen mask class tokens as halved scores can
            be: the other half asks CLIP's keys for what the class token of an image of the mean
            colour asks, whatever the mask.
        padding: of images, "mean" colour of the proposer's normalisation as released, or "black".
        seed: of a random beginning.

    Raises:
        CheckpointError: the image tower is of another kind.
        RecipeError: the tower has no such layer, or none is named.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        layers: tuple[NonNegativeInt, ...] | None = None,
        refine: bool = True,
        init: Literal["released", "identity"] = "released",
        padding: Literal["mean", "black"] = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.refine, self.padding = refine, padding
        blocks = clip.visual.transformer.resblocks
        self.layers = _checked_layers(layers, len(blocks))
        attention = blocks[0].attn
        sizes = (attention.embed_dim, attention.num_heads, clip.visual.patch_size[0])
        names = [str(layer) for layer in self.layers]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            relations = {name: RelativeScores(*sizes) for name in names}
            refinements = {name: MaskRefinement(*sizes) for name in names if refine}
        self.relations, self.refinements = nn.ModuleDict(relations), nn.ModuleDict(refinements)
        for added in (self.relations, self.refinements):
            added.to(attention.in_proj_weight)
        if init == "identity":
            _begin_as_frozen_tokens(clip, relations)
            for refinement in refinements.values():
                refinement.add_nothing()

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        mask_logits: Float[Tensor, "B N h w"],
        read: Sequence[ImageLayer] | None = None,
    ) -> RefinedMasks:
        """Embeddings of every image's masks, and the masks after each refinement.

        Args:
            images: RGB, 0 to 255, whole and padded as the proposer saw them.
            mask_logits: over the same area as the images, at any stride.
            read: what `read` gave of the images, where several sets of masks share it.
        """
        visual = self.clip.visual
        layers = read or image_layers(visual, self.clip.preprocess(images))
        masks = self._at_pixels(mask_logits)
        visible, refined = self._visible(masks), []
        start = visual.ln_pre(visual.class_embedding + visual.positional_embedding[0])
        tokens = start.expand(*visible.shape[:2], -1)  # (B, N, C)
        for index, image in enumerate(layers):
            block = visual.transformer.resblocks[index]
            queries = own_queries(block, block.ln_1(tokens))
            if index not in self.layers:
                tokens = read_image(block, tokens, queries, image, visible)
                continue
            scores = self.relations[str(index)](masks, image.normed[:, 1:])
            attended = _attended(queries, image, visible, scores)
            tokens = finish_block(block, tokens, attended)
            if self.refine:
                keys = image.keys[:, :, 1:].transpose(1, 2).flatten(2)  # (B, P, C)
                masks = self.refinements[str(index)](masks, queries, keys)
                visible = self._visible(masks)
                refined.append(masks)
        embeddings = project_class_tokens(visual, tokens)
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        return RefinedMasks(embeddings, tuple(refined) or (masks,))

    def read(self, images: Float[Tensor, "B 3 H W"]) -> tuple[ImageLayer, ...]:
        """What masks read of images in every layer of the frozen tower, all at once.

        Args:
            images: RGB, 0 to 255, whole and padded as the proposer saw them.
        """
        return tuple(image_layers(self.clip.visual, self.clip.preprocess(images)))

    def train(self, mode: bool = True) -> "RelativeMaskAttention":
        """Training mode for what is tuned; the CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def tuned_tensors(self) -> dict[str, Tensor]:
        """What is added to CLIP, by name: all that an artifact has to keep."""
        return tensors_beside_clip(self)

    def load_tuned_tensors(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Takes what `tuned_tensors` gave, see `load_beside_clip`."""
        load_beside_clip(self, tensors, source=source)

    @torch.no_grad()
    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        """The proposals of one image as CLIP sees them, and the masks that it makes of them."""
        device = self.clip.device
        images = self.padded_image(framed)[None].to(device)
        embeddings, refined = self(images, proposals.mask_logits[None].to(device))
        mask_logits = refined[-1][0] if self.refine else proposals.mask_logits
        valid = torch.ones(len(embeddings[0]), dtype=torch.bool, device=device)
        return EncodedMasks(embeddings[0], mask_logits, valid)

    def padded_image(self, framed: FramedImage) -> Float[Tensor, "3 H W"]:
        """The image with the colour of `padding` around it.

        Args:
            framed: left as it is.
        """
        height, width = framed.frame.resized
        pixels = framed.pixels.clone()
        colour = pixels.new_tensor(PADDING[self.padding])[:, None, None]
        pixels[:, height:], pixels[:, :, width:] = colour, colour
        return pixels

    def _at_pixels(self, mask_logits: Tensor) -> Tensor:
        side = self.clip.resolution
        kind = torch.promote_types(mask_logits.dtype, torch.float32)
        if mask_logits.shape[1] == 0:
            return mask_logits.new_zeros((len(mask_logits), 0, side, side), dtype=kind)
        return F.interpolate(mask_logits.to(kind), (side, side), mode="bilinear")

    @torch.no_grad()
    def _visible(self, masks: Float[Tensor, "B N R R"]) -> Bool[Tensor, "B N L"]:
        """The patches with a pixel of at least 0, and the class token."""
        if masks.shape[1] == 0:
            grid = self.clip.visual.grid_size[0]
            return masks.new_zeros((len(masks), 0, 1 + grid**2), dtype=torch.bool)
        at_patches = F.max_pool2d(masks, self.clip.visual.patch_size[0])
        return F.pad(at_patches.flatten(2) >= 0, (1, 0), value=True)


def _attended(
    queries: Float[Tensor, "B N C"],
    image: ImageLayer,
    visible: Bool[Tensor, "B N L"],
    scores: Float[Tensor, "B heads N P"],
) -> Float[Tensor, "B heads N d"]:
    """Attention whose scores on patches are the mean of CLIP's and the relative ones."""
    share = image.keys.new_full((image.keys.shape[2], 1), 0.5)
    share[0] = 1  # the class token's score is not halved
    bias = F.pad(scores / 2, (1, 0)).masked_fill(~visible[:, None], -torch.inf)
    asked = split_heads(queries, image.keys.shape[1])
    return F.scaled_dot_product_attention(
        asked, image.keys * share, image.values, attn_mask=bias.to(asked.dtype)
    )


def _checked_layers(layers: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(sorted({-(-count * quarter // 4) - 1 for quarter in range(1, 5)}))
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        found = f"there is no layer {wrong[0]}" if wrong else "there is none"
        raise RecipeError(
            f"[mask_encoder] layers: {found}; name some of this CLIP's, from 0 to {count - 1}"
        )
    return tuple(sorted(set(layers)))


@torch.no_grad()
def _begin_as_frozen_tokens(clip: ClipEncoder, relations: Mapping[str, RelativeScores]) -> None:
    """Relative scores ask CLIP's keys what the class token of a blank image asks in that layer."""
    blocks = clip.visual.transformer.resblocks
    blank = clip.mean.new_zeros((1, 3, clip.resolution, clip.resolution))
    for index, image in enumerate(image_layers(clip.visual, blank)):
        if str(index) in relations:
            attention, width = blocks[index].attn, image.normed.shape[-1]
            relations[str(index)].ask_alike(
                own_queries(blocks[index], image.normed[:, :1])[0, 0],
                attention.in_proj_weight[width : 2 * width],
                attention.in_proj_bias[width : 2 * width],
            )
