"""Relative mask attention of ViT-L/14 at 336 beside the released arithmetic: time, FLOPs, memory.

python tests/benchmarks/relative_mask_attention.py [--masks 100] [--repeats 5] [--device cpu]

Random weights, one image of 800 x 1088, one process, one thread, interleaved, median. The peer is
`tests/plain/relative_mask_attention.py`: one sequence of mask and image tokens, every tensor of
masks x patches x channels made in full, no gradient on frozen weights.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.mask_class_tokens import (
    Forward,
    counted_gmac,
    measure,
    peak_megabytes,
    saved_bytes,
    with_backward,
    without_gradient,
)
from plain.relative_mask_attention import PlainRelativeMaskAttention
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention


def main() -> None:
    """Prints the figures of both and their ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-L-14-336-quickgelu")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)

    clip = load_open_clip(architecture=options.model, pretrained=None)
    encoder = RelativeMaskAttention(clip).to(device).train()
    plain = PlainRelativeMaskAttention(encoder)
    images = torch.rand(1, 3, 800, 1088, device=device) * 255
    coarse = torch.randn(1, options.masks, 8, 8, device=device)
    mask_logits = F.interpolate(coarse, (200, 272), mode="bilinear")
    modules = {"ours": encoder, "peer": plain}

    def forward_of(name: str) -> Forward:
        """Embeddings and the mean of each mask, so that a backward pass goes through both."""

        def forward() -> Tensor:
            embeddings, masks = modules[name](images, mask_logits)
            return torch.cat([embeddings[0], masks[-1][0].flatten(1).mean(1, True)], dim=1)

        return forward

    with torch.no_grad():
        ours, peer = (modules[name](images, mask_logits) for name in modules)
        difference = {
            "embeddings": (ours[0] - peer[0]).abs().max().item(),
            "mask_logits": (ours[1][-1] - peer[1][-1]).abs().max().item(),
        }
    del ours, peer
    forwards = {name: forward_of(name) for name in modules}
    figures = measure(forwards, options.repeats, device)
    for name, forward in forwards.items():
        forward_gmac, backward_gmac = counted_gmac(forward)
        figures[name] |= {
            "forward_gmac": forward_gmac,
            "backward_gmac": backward_gmac,
            "saved_megabytes": saved_bytes(forward, encoder) / 1e6,
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


if __name__ == "__main__":
    main()
