"""FC-CLIP as released, from the same weights as ours: every step in full, at every prediction.

Class head and masks of all predictions, attention masks from masks at stride 4, a loop over classes
for the best synonym, every mask at the image's size, a loop over queries for the panoptic map, one
score map a class for the semantic one. The towers are held without gradient, the texts are given.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_cli.proposers.mask2former.mask_decoder import MaskDecoder
from ovseg_cli.structures import Frame

from . import inference
from .inference import resized
from .mask2former import decoded_masks, decoded_pixels

SMALLEST = 1e-8


@dataclass(frozen=True)
class Words:
    """A vocabulary: rows of unit length in the order of the classes, and how many each class has.

    Attributes:
        rows: (T, D) one a synonym.
        counts: rows a class.
        seen: (K,) True for the classes of the training vocabulary.
        is_thing: (K,) True for things.
    """

    rows: Tensor
    counts: tuple[int, ...]
    seen: Tensor
    is_thing: Tensor


@dataclass(frozen=True)
class Settings:
    """What the released configuration files set."""

    alpha: float = 0.4
    beta: float = 0.8
    ensemble_on_valid: bool = False
    object_threshold: float = 0.0
    overlap_threshold: float = 0.8
    top_k: int = 100


class Instances(NamedTuple):
    """(I, H, W) masks, (I,) class indices and (I,) scores, in no order."""

    masks: Tensor
    labels: Tensor
    scores: Tensor


class Results(NamedTuple):
    """Of one image; segments are (id, class, is thing)."""

    log_probabilities: Tensor
    semantic: Tensor
    panoptic: Tensor
    segments: inference.Segments
    instances: Instances


class PlainFcclip:
    """The whole system, from the weights of a `ClipMask2Former` and a CLIP's image tower."""

    def __init__(
        self, model: nn.Module, clip: nn.Module, words: Words, settings: Settings = Settings()
    ) -> None:
        self.model, self.clip, self.words, self.settings = model, clip, words, settings
        void = F.normalize(model.void_embedding.weight.detach(), dim=-1)
        self.bank = torch.cat([words.rows, void])  # (T + 1, D)

    @torch.no_grad()
    def segment(self, normalised: Tensor, frame: Frame) -> Results:
        """Of an image (3, H, W), normalised and then padded with zeros."""
        levels = self.levels(normalised[None])
        logits, masks = self.predictions(self.pixels(levels))[-1]
        return self.results(logits[0], masks[0], levels[-1], frame)

    def results(self, logits: Tensor, masks: Tensor, dense: Tensor, frame: Frame) -> Results:
        """From in-vocabulary logits (Q, K + 1), masks (Q, h, w) and CLIP's last level (1, C, .)."""
        outside = self.class_logits(self.mask_embeddings(dense, masks), self.clip_scale())
        class_log = self.ensemble(logits, outside, masks, dense)
        upsampled = self.upsampled(masks, frame)
        return Results(
            class_log,
            self.semantic(class_log, upsampled),
            *self.panoptic(class_log, upsampled),
            self.instances(class_log, upsampled),
        )

    def levels(self, normalised: Tensor) -> list[Tensor]:
        """Four levels of CLIP's image tower."""
        visual = self.model.dense.tower.visual
        if hasattr(visual, "trunk"):
            features, stages = visual.trunk.stem(normalised), visual.trunk.stages
        else:
            features = visual.stem(normalised)
            stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        levels = []
        for stage in stages:
            features = stage(features)
            levels.append(features)
        return levels

    def pixels(self, levels: list[Tensor]) -> Any:
        """Mask features and three levels."""
        return decoded_pixels(self.model.pixel_decoder, levels)

    def predictions(self, pixels: Any) -> list[tuple[Tensor, Tensor]]:
        """In-vocabulary logits and masks, of the queries themselves and after each layer."""
        return decoded_masks(self.model.mask_decoder, pixels, self.predicted)

    def predicted(
        self, decoder: MaskDecoder, queries: Tensor, mask_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One prediction: the class head pools the mask features inside its own masks."""
        normed = decoder.norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_head(normed), mask_features)
        head = decoder.class_head
        pooled = head.pooled(pooled_inside(mask_features, masks))
        embeddings = head.embed(pooled + normed)
        return self.class_logits(embeddings, head.logit_scale.exp().clamp(max=100)), masks

    def class_logits(self, embeddings: Tensor, scale: Tensor) -> Tensor:
        """The best of each class's synonyms, void last."""
        cosines = scale * F.normalize(embeddings, dim=-1) @ self.bank.T
        best, start = [], 0
        for count in (*self.words.counts, 1):
            best.append(cosines[..., start : start + count].max(-1).values)
            start += count
        return torch.stack(best, -1)

    def clip_scale(self) -> Tensor:
        """CLIP's own temperature."""
        return self.clip.model.logit_scale.exp().clamp(max=100)

    def mask_embeddings(self, dense: Tensor, masks: Tensor) -> Tensor:
        """(Q, D) CLIP's dense features inside each mask, in the joint space."""
        visual = self.clip.model.visual
        small = resized(masks, dense.shape[-2:])
        if not hasattr(visual, "trunk"):
            return attention_pooled(visual.attnpool, dense, small > 0)
        pooled = pooled_inside(dense, small[None])[0]
        normed = visual.trunk.head.norm(pooled[:, :, None, None]).flatten(1)
        return visual.head(normed)

    def ensemble(self, inside: Tensor, outside: Tensor, masks: Tensor, dense: Tensor) -> Tensor:
        """(Q, K + 1) log probabilities, void last."""
        weights = torch.where(self.words.seen, self.settings.alpha, self.settings.beta)
        weights = weights.expand(len(inside), -1)
        if self.settings.ensemble_on_valid:
            valid = (resized(masks, dense.shape[-2:]) > 0).flatten(1).any(1)
            weights = weights * valid[:, None]
        in_probabilities = inside[:, :-1].double().softmax(-1)
        out_probabilities = outside[:, :-1].double().softmax(-1)
        product = in_probabilities ** (1 - weights) * out_probabilities**weights
        void = inside.double().softmax(-1)[:, -1:]
        classes = product / product.sum(-1, keepdim=True)
        return (torch.cat([classes * (1 - void), void], -1) + SMALLEST).log().float()

    def upsampled(self, masks: Tensor, frame: Frame) -> Tensor:
        """(Q, H, W) at the original size."""
        return inference.upsampled(masks, frame)

    def semantic(self, class_log: Tensor, masks: Tensor) -> Tensor:
        """(K, H, W) the score of every class at every pixel."""
        return inference.semantic(class_log.softmax(-1)[:, :-1], masks)

    def panoptic(self, class_log: Tensor, masks: Tensor) -> tuple[Tensor, inference.Segments]:
        """(H, W) ids, 0 is void, and the segments."""
        probabilities = class_log.softmax(-1)
        return inference.panoptic(
            probabilities[:, :-1],
            probabilities[:, -1],
            masks,
            self.words.is_thing,
            object_threshold=self.settings.object_threshold,
            overlap_threshold=self.settings.overlap_threshold,
        )

    def instances(self, class_log: Tensor, masks: Tensor) -> Instances:
        """The best pairs of query and class; what is stuff is then left out."""
        probabilities = class_log.softmax(-1)[:, :-1]
        found = inference.instances(
            probabilities, masks, self.words.is_thing, top_k=self.settings.top_k
        )
        return Instances(*found)


def pooled_inside(features: Tensor, masks: Tensor) -> Tensor:
    """(B, Q, C) means of (B, C, h, w) where (B, Q, h, w) is above 0; an empty mask gives zeros."""
    inside = (masks > 0).to(features.dtype)
    sums = torch.einsum("bchw,bqhw->bqc", features, inside)
    return sums / (inside.sum((2, 3))[..., None] + SMALLEST)


def attention_pooled(pool: nn.Module, dense: Tensor, inside: Tensor) -> Tensor:
    """(Q, D) a ResNet's attention pooling of (1, C, h, w), its keys those inside (Q, h, w).

    The query is the mean of the whole map, and no key; where a mask has no cell, nothing is read.
    """
    cells = dense[0].flatten(1).T  # (P, C)
    table = pool.positional_embedding
    side = round((len(table) - 1) ** 0.5)
    grid = table[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, dense.shape[-2:], mode="bilinear", align_corners=False)
    placed = cells + grid[0].flatten(1).T
    query = pool.q_proj(cells.mean(0) + table[0])
    read = []
    for mask in inside.flatten(1):
        keys, values = pool.k_proj(placed[mask]), pool.v_proj(placed[mask])
        heads = []
        for q, k, v in zip(
            query.chunk(pool.num_heads),
            keys.chunk(pool.num_heads, -1),
            values.chunk(pool.num_heads, -1),
            strict=True,
        ):
            heads.append(((k @ q) / len(q) ** 0.5).softmax(0) @ v)
        read.append(pool.c_proj(torch.cat(heads)))
    return torch.stack(read)
