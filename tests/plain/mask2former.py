"""Mask2Former the plain way, from the same weights.

The norms stand apart from the convolutions, deformable attention runs a `grid_sample` a level,
attention forms its weights, and every layer predicts its masks at stride 4 and then resizes them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_cli.proposers import Mask2Former
from ovseg_cli.proposers.mask2former.mask_decoder import Attention, MaskDecoder
from ovseg_cli.proposers.mask2former.pixel_decoder import DecodedPixels, PixelDecoder
from ovseg_cli.proposers.mask2former.positions import sine_positions
from ovseg_cli.proposers.resnet import Bottleneck, ResNet

from .deformable_attention import attended

Predict = Callable[[MaskDecoder, Tensor, Tensor], tuple[Tensor, Tensor]]


def backbone_features(backbone: ResNet, images: Tensor) -> list[Tensor]:
    features = images
    for index in range(backbone.stem_depth):
        convolution = getattr(backbone, f"conv{index + 1}")
        features = F.relu(getattr(backbone, f"bn{index + 1}")(convolution(features)))
    features = F.max_pool2d(features, 3, 2, padding=1)
    levels = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            features = residual_block(block, features)
        levels.append(features)
    return levels


def residual_block(block: nn.Module, features: Tensor) -> Tensor:
    shortcut = features if block.downsample is None else block.downsample(features)
    inner = F.relu(block.bn1(block.conv1(features)))
    inner = block.bn2(block.conv2(inner))
    if isinstance(block, Bottleneck):
        inner = block.bn3(block.conv3(F.relu(inner)))
    return F.relu(inner + shortcut)


def decoded_pixels(decoder: PixelDecoder, features: list[Tensor]) -> DecodedPixels:
    finest, *coarser = features
    maps = [p(level) for p, level in zip(decoder.projections, coarser[::-1], strict=True)]
    sizes = [tuple(level.shape[-2:]) for level in maps]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
    positions = torch.cat(
        [
            sine_positions(size, tokens.shape[-1], like=tokens) + embedding
            for size, embedding in zip(sizes, decoder.level_embeddings, strict=True)
        ]
    )
    for layer in decoder.layers:
        gathered = attended(layer.attention, tokens + positions, tokens, sizes)
        tokens = layer.attention_norm(tokens + gathered)
        tokens = layer.feedforward_norm(tokens + layer.feedforward(tokens))
    levels = tuple(
        level.transpose(1, 2).unflatten(2, size)
        for level, size in zip(tokens.split([h * w for h, w in sizes], 1), sizes, strict=True)
    )
    upsampled = F.interpolate(levels[-1], size=finest.shape[-2:], mode="bilinear")
    smooth = decoder.smooth(decoder.lateral(finest) + upsampled)
    return DecodedPixels(decoder.mask_features(smooth), levels)


def predicted(
    decoder: MaskDecoder, queries: Tensor, mask_features: Tensor
) -> tuple[Tensor, Tensor]:
    normed = decoder.norm(queries)
    masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_head(normed), mask_features)
    return decoder.class_head(normed), masks


def decoded_masks(
    decoder: MaskDecoder, pixels: DecodedPixels, predict: Predict = predicted
) -> list[tuple[Tensor, Tensor]]:
    batch = len(pixels.mask_features)
    levels = [
        (
            level.flatten(2).transpose(1, 2) + embedding,
            sine_positions(tuple(level.shape[-2:]), level.shape[1], like=level),
        )
        for level, embedding in zip(pixels.levels, decoder.level_embeddings.weight, strict=True)
    ]
    queries = decoder.query_features.weight.expand(batch, -1, -1)
    places = decoder.query_positions.weight
    predictions = [predict(decoder, queries, pixels.mask_features)]
    for index, layer in enumerate(decoder.layers):
        tokens, positions = levels[index % 3]
        size = pixels.levels[index % 3].shape[-2:]
        masks = F.interpolate(predictions[-1][1], size=size, mode="bilinear").flatten(2)
        blocked = masks.sigmoid() < 0.5
        blocked[blocked.all(-1)] = False
        keys = tokens + positions
        read = attention(layer.cross_attention, queries + places, keys, tokens, blocked)
        queries = layer.cross_norm(queries + read)
        placed = queries + places
        read = attention(layer.self_attention, placed, placed, queries, None)
        queries = layer.self_norm(queries + read)
        queries = layer.feedforward_norm(queries + layer.feedforward(queries))
        predictions.append(predict(decoder, queries, pixels.mask_features))
    return predictions


def attention(
    module: Attention, queries: Tensor, keys: Tensor, values: Tensor, blocked: Tensor | None
) -> Tensor:
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(tokens, weight, bias).unflatten(2, (module.heads, -1)).transpose(1, 2)
        for tokens, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )
    logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if blocked is not None:
        logits = logits.masked_fill(blocked.unsqueeze(1), -torch.inf)
    return module.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def predictions(model: Mask2Former, normalised: Tensor) -> list[tuple[Tensor, Tensor]]:
    features = backbone_features(model.backbone, normalised)
    return decoded_masks(model.mask_decoder, decoded_pixels(model.pixel_decoder, features))
