"""Mask class tokens of ViT-L/14 at 336 beside the released arithmetic: time, FLOPs, memory.

python tests/benchmarks/mask_class_tokens.py [--variant q] [--masks 100] [--repeats 5]

Random weights, one image of 800 x 1088, one process, one thread, interleaved, median. The peer is
`tests/plain/mask_class_tokens.py`: one sequence of mask and image tokens, no gradient on frozen
weights. Saved activations are the distinct storages that autograd keeps, parameters left out.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain.mask_class_tokens import PlainMaskClassTokens

from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens

Forward = Callable[[], Tensor]
Shape = torch.Size


def fused_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Of the CPU's fused attention; PyTorch's counter knows the GPU's alone."""
    return sdpa_flop_count(query, key, value)


def fused_backward_flops(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object
) -> int:
    """Of its backward pass."""
    return sdpa_backward_flop_count(grad, query, key, value)


FUSED_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_backward_flops,
}


def gmac(work: Callable[[], object]) -> float:
    """Multiply-adds in 1e9, as PyTorch counts them: products and attention alone."""
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        work()
    return counter.get_total_flops() / 2e9


def counted_gmac(forward: Forward) -> tuple[float, float]:
    """Of a forward pass and of the backward pass after it."""
    embeddings = forward()
    backward = gmac(lambda: embeddings.square().sum().backward())
    return gmac(forward), backward


def saved_bytes(forward: Forward, module: nn.Module) -> int:
    """What autograd keeps of a forward pass, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall-clock and process seconds."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - start_cpu


def without_gradient(forward: Forward) -> None:
    with torch.no_grad():
        forward()


def with_backward(forward: Forward) -> None:
    forward().square().sum().backward()


def measure(
    forwards: dict[str, Forward], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median seconds of each pass of each contender, taken in turns."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for kind, work in (("forward", without_gradient), ("training", with_backward)):
            for name, forward in forwards.items():
                taken = timed(lambda work=work, forward=forward: work(forward), device)
                seconds.setdefault((name, kind), []).append(taken)
    figures: dict[str, dict[str, float]] = {name: {} for name in forwards}
    for (name, kind), taken in seconds.items():
        figures[name][f"{kind}_seconds"] = statistics.median(wall for wall, _ in taken)
        figures[name][f"{kind}_cpu_seconds"] = statistics.median(cpu for _, cpu in taken)
    return figures


def peak_megabytes(device: torch.device, work: Callable[[], object]) -> float:
    """The most that is allocated at once during a pass, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in changes)) / 1e6


def options_parser(description: str) -> argparse.ArgumentParser:
    """The options that benchmarks of mask encoders share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    return parser


def random_inputs(masks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """An image, and masks of it at stride 4."""
    images = torch.rand(1, 3, 800, 1088, device=device) * 255
    coarse = torch.randn(1, masks, 8, 8, device=device)
    return images, F.interpolate(coarse, (200, 272), mode="bilinear")


def report(
    options: argparse.Namespace, forwards: dict[str, Forward], module: nn.Module, difference: object
) -> None:
    """Prints the figures of "ours" and "peer", and their ratios, as JSON.

    Args:
        options: what was asked for.
        forwards: the passes of both.
        module: holds the weights of both.
        difference: the largest between what they give.
    """
    device = torch.device(options.device)
    figures = measure(forwards, options.repeats, device)
    for name, forward in forwards.items():
        forward_gmac, backward_gmac = counted_gmac(forward)
        figures[name] |= {
            "forward_gmac": forward_gmac,
            "backward_gmac": backward_gmac,
            "saved_megabytes": saved_bytes(forward, module) / 1e6,
            "forward_peak_megabytes": peak_megabytes(
                device, lambda forward=forward: without_gradient(forward)
            ),
            "training_peak_megabytes": peak_megabytes(
                device, lambda forward=forward: with_backward(forward)
            ),
        }
    ratios = {key: figures["peer"][key] / value for key, value in figures["ours"].items()}
    setting = {**vars(options), "torch": torch.__version__, "largest_difference": difference}
    print(json.dumps({"setting": setting, **figures, "peer_over_ours": ratios}, indent=1))


def main() -> None:
    """Prints the figures of both and their ratios as JSON."""
    parser = options_parser(__doc__.splitlines()[0])
    parser.add_argument("--variant", default="q", help="what is tuned")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)

    clip = load_open_clip(architecture=options.model, pretrained=None)
    encoder = MaskClassTokens(clip, variant=options.variant).to(device).train()
    plain = PlainMaskClassTokens(encoder)
    images, mask_logits = random_inputs(options.masks, device)

    def ours() -> Tensor:
        return encoder(images, encoder.visible_patches(mask_logits))

    def peer() -> Tensor:
        return plain(images, mask_logits)

    with torch.no_grad():
        difference = (ours() - peer()).abs().max().item()
    report(options, {"ours": ours, "peer": peer}, encoder, difference)


if __name__ == "__main__":
    main()
