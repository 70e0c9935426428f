"""Masked crops through ViT-L/14 at 224 beside the matrix products that they need: time, memory.

python tests/benchmarks/masked_crops.py [--masks 10] [--prompts 3] [--repeats 3]

Random weights, one image of 640 x 853, one process, one thread, interleaved, median. The bound is
arithmetic: the time in which this machine multiplies matrices of the tower's own largest kind for
as many operations as the crops cost.
"""

import json
import statistics
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mask_class_tokens import gmac, options_parser, peak_megabytes, timed

from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.structures import Frame, FramedImage, Proposals

FRAME = Frame(padded=(640, 864), resized=(640, 853), original=(640, 853))


def main() -> None:
    """Prints the figures as JSON."""
    parser = options_parser(__doc__.splitlines()[0])
    parser.set_defaults(model="ViT-L-14-quickgelu", masks=10, repeats=3)
    parser.add_argument("--prompts", type=int, default=3, help="depth of the mask prompts")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)

    clip = load_open_clip(architecture=options.model, pretrained=None)
    encoder = MaskedCrops(
        clip,
        region="box",
        fill="mean",
        tuned="mpt" if options.prompts else "none",
        prompts=options.prompts,
        batch_size=options.batch_size,
    ).to(device)
    framed = FramedImage(torch.rand(3, *FRAME.padded, device=device) * 255, FRAME)
    coarse = torch.randn(options.masks, 8, 8, device=device)
    masks = F.interpolate(coarse[:, None], (160, 216), mode="bilinear")[:, 0]
    proposals = Proposals(masks, FRAME, torch.ones(options.masks))

    def crops() -> None:
        encoder.encode(framed, proposals)

    giga = gmac(crops)
    tokens, width = 257 * min(options.masks, options.batch_size), 1024
    left, right = torch.rand(tokens, width, device=device), torch.rand(width, 4 * width).to(device)
    products = round(giga * 1e9 / (tokens * width * 4 * width))

    def bound() -> None:
        for _ in range(products):
            left @ right

    taken: dict[str, list[float]] = {"crops": [], "bound": []}
    for _ in range(options.repeats):
        for name, work in (("crops", crops), ("bound", bound)):
            taken[name].append(timed(work, device)[1 if device.type == "cpu" else 0])
    figures = {f"{name}_seconds": statistics.median(values) for name, values in taken.items()}
    figures["crops_over_bound"] = figures["crops_seconds"] / figures["bound_seconds"]
    figures["gmac_per_mask"] = giga / options.masks
    figures["peak_megabytes"] = peak_megabytes(device, crops)
    print(json.dumps({"setting": vars(options), **figures}, indent=1))


if __name__ == "__main__":
    main()
