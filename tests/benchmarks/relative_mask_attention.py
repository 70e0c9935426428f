"""Relative mask attention of ViT-L/14 at 336 beside the released arithmetic: time, FLOPs, memory.

python tests/benchmarks/relative_mask_attention.py [--masks 100] [--repeats 5] [--device cpu]

Random weights, one image of 800 x 1088, one process, one thread, interleaved, median. The peer is
`tests/plain/relative_mask_attention.py`: one sequence of mask and image tokens, every tensor of
masks x patches x channels made in full, no gradient on frozen weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.mask_class_tokens import Forward, options_parser, random_inputs, report
from plain.relative_mask_attention import PlainRelativeMaskAttention
from torch import Tensor

from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention


def main() -> None:
    """Prints the figures of both and their ratios as JSON."""
    options = options_parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)

    clip = load_open_clip(architecture=options.model, pretrained=None)
    encoder = RelativeMaskAttention(clip).to(device).train()
    plain = PlainRelativeMaskAttention(encoder)
    images, mask_logits = random_inputs(options.masks, device)
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
    report(options, {name: forward_of(name) for name in modules}, encoder, difference)


if __name__ == "__main__":
    main()
