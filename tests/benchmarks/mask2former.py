"""Mask2Former R50 beside the plain one: time, operations and agreement, part by part.

    python tests/benchmarks/mask2former.py [--size 640] [--repeats 5]

Both run in one process on one thread, from the same random weights, in turn; times are CPU seconds
of this process (medians), so other load on the machine matters little. FLOPs are two a
multiply-add, of matrix products, convolutions and attention; the difference is the largest one,
as a share of the largest value.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from plain import deformable_attention as plain_attention
from plain import mask2former as plain
from torch.utils.flop_counter import FlopCounterMode

from ovseg_cli.proposers import Mask2Former
from ovseg_cli.proposers.mask2former.deformable_attention import sampled_sums, sampling_grid
from ovseg_cli.proposers.mask2former.positions import sine_positions


@dataclass
class Comparison:
    """The same part, ours and plain."""

    name: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    released_gflop: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = random_model().requires_grad_(False)
    image = torch.randn(1, 3, options.size, options.size)
    with torch.no_grad():
        print(f"R50 at {options.size}x{options.size}, 100 queries, fp32, {torch.__version__}")
        print(
            f"{'part':28}{'ours s':>9}{'plain s':>9}{'ratio':>7}{'ours GF':>9}{'plain GF':>10}"
            f"{'released':>10}{'difference':>12}"
        )
        for comparison in [*parts(model, image), *attention(model, image)]:
            report(comparison, options.repeats)
    print("forward and backward")
    model.pixel_decoder.layers[0].attention.requires_grad_(True)
    for comparison in attention(model, image, gradients=True):
        report(comparison, options.repeats)


def random_model() -> Mask2Former:
    """The paper's sizes; offsets and attention depend on the query, as after training."""
    torch.manual_seed(0)
    model = Mask2Former().eval()
    for layer in model.pixel_decoder.layers:
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.05)
        torch.nn.init.normal_(layer.attention.attention.weight, std=0.1)
    return model


def parts(model: Mask2Former, image: torch.Tensor) -> list[Comparison]:
    features = model.backbone(image)
    pixels = model.pixel_decoder(features)
    contiguous = [level.contiguous() for level in features]
    layout = type(pixels)(
        pixels.mask_features.contiguous(), tuple(level.contiguous() for level in pixels.levels)
    )
    return [
        Comparison(
            "whole",
            lambda: model.predictions(image)[-1],
            lambda: plain.predictions(model, image)[-1],
            66.7 + 113.3 + 25.4,
        ),
        Comparison(
            "backbone",
            lambda: model.backbone(image),
            lambda: plain.backbone_features(model.backbone, image),
            66.7,
        ),
        Comparison(
            "pixel decoder",
            lambda: flat(model.pixel_decoder(features)),
            lambda: flat(plain.decoded_pixels(model.pixel_decoder, contiguous)),
            113.3,
        ),
        Comparison(
            "mask decoder",
            lambda: model.mask_decoder(pixels)[-1],
            lambda: plain.decoded_masks(model.mask_decoder, layout)[-1],
            25.4,
        ),
    ]


def attention(
    model: Mask2Former, image: torch.Tensor, *, gradients: bool = False
) -> list[Comparison]:
    """One layer's deformable attention: the core from offsets to sums, and all of it."""
    module = model.pixel_decoder.layers[0].attention
    with torch.no_grad():
        levels = model.pixel_decoder(model.backbone(image)).levels
    sizes = [tuple(level.shape[-2:]) for level in levels]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
    positions = torch.cat([sine_positions(size, 256, like=tokens) for size in sizes])
    grid = sampling_grid(sizes, module.heads, module.points, like=tokens)
    shape = (*tokens.shape[:2], module.heads, module.levels, module.points)
    with torch.no_grad():
        value = module.value(tokens)
        offsets = module.offsets(tokens + positions).view(*shape, 2)
        weights = module.attention(tokens + positions).view(*shape[:3], -1).softmax(-1)
    offset_x, offset_y = (offset.flatten(3).contiguous() for offset in offsets.unbind(-1))
    inputs = [value, offset_x, offset_y, weights]
    inputs = [tensor.requires_grad_(gradients) for tensor in inputs]
    offsets.requires_grad_(gradients)

    def plain_core() -> torch.Tensor:
        scale = torch.tensor([(width, height) for height, width in sizes])
        own = torch.stack(plain_attention.pixel_centres(sizes), -1)
        locations = own[:, None, None, None] + offsets / scale[:, None]
        heads = inputs[0].unflatten(2, (module.heads, -1))
        return plain_attention.sampled_sums(heads, locations, inputs[3].view(shape), sizes)

    def run(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        if not gradients:
            return function

        def forward_and_backward() -> torch.Tensor:
            output = function()
            output.square().sum().backward()
            return output.detach()

        return forward_and_backward

    placed = tokens + positions
    return [
        Comparison(
            "deformable attention core",
            run(lambda: sampled_sums(*inputs, grid)),
            run(plain_core),
        ),
        Comparison(
            "deformable attention layer",
            run(lambda: module(placed, tokens, grid)),
            run(lambda: plain_attention.attended(module, placed, tokens, sizes)),
        ),
    ]


def report(comparison: Comparison, repeats: int) -> None:
    pairs = zip(tensors(comparison.ours()), tensors(comparison.plain()), strict=True)
    difference = max(float((ours - other).abs().max() / other.abs().max()) for ours, other in pairs)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for name in times:
            times[name].append(cpu_seconds(getattr(comparison, name)))
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "plain"))
    released = f"{comparison.released_gflop:10.1f}" if comparison.released_gflop else " " * 10
    print(
        f"{comparison.name:28}{ours:9.3f}{theirs:9.3f}{theirs / ours:7.2f}"
        f"{gflop(comparison.ours):>9}{gflop(comparison.plain):>10}{released}{difference:12.1e}"
    )


def cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def gflop(function: Callable[[], Any]) -> str:
    if torch.is_grad_enabled():
        return ""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return f"{counter.get_total_flops() / 1e9:.1f}"


def flat(pixels: Any) -> list[torch.Tensor]:
    return [pixels.mask_features, *pixels.levels]


def tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


if __name__ == "__main__":
    main()
