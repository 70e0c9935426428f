"""Masked crops through ViT-L/14 at 224 beside the matrix products that they need: time, memory.

python tests/benchmarks/masked_crops.py [--masks 10] [--prompts 3] [--repeats 3]

Random weights, one image of 640 x 853, one process, one thread, interleaved, median. The bound is
arithmetic: the time in which this machine multiplies matrices of the tower's own largest kind for
as many operations as the crops cost. A tenth of it before and a tenth after every pass are measured
and scaled, and the operations are those of one mask, as all cost the same. Peak memory is what the
process holds above what it holds with weights and masks; on the CPU, scratch of libraries included.
"""

import json
import resource
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mask_class_tokens import gmac, options_parser, timed

from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.structures import Frame, FramedImage, Proposals

FRAME = Frame(padded=(640, 864), resized=(640, 853), original=(640, 853))
SHARE = 0.1


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

    def crops(count: int = options.masks) -> None:
        some = Proposals(masks[:count], FRAME, proposals.scores[:count])
        encoder.encode(framed, some)

    giga = gmac(lambda: crops(1))
    tokens, width = 257 * min(options.masks, options.batch_size), 1024
    left, right = torch.rand(tokens, width, device=device), torch.rand(width, 4 * width).to(device)
    needed = giga * options.masks * 1e9 / (tokens * width * 4 * width)
    made = max(1, round(needed * SHARE))

    def bound() -> None:
        for _ in range(made):
            left @ right

    clock = 1 if device.type == "cpu" else 0
    figures: dict[str, list[float]] = {"crops_seconds": [], "bound_seconds": [], "peak_mib": []}
    for _ in range(options.repeats):
        before = timed(bound, device)[clock]
        with peak_mebibytes(device) as peak:
            figures["crops_seconds"].append(timed(crops, device)[clock])
        figures["peak_mib"].append(peak[0])
        after = timed(bound, device)[clock]
        figures["bound_seconds"].append((before + after) / 2 / made * needed)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    medians["crops_over_bound"] = medians["crops_seconds"] / medians["bound_seconds"]
    print(json.dumps({"setting": vars(options), "gmac_per_mask": giga, **medians}, indent=1))


@contextmanager
def peak_mebibytes(device: torch.device) -> Iterator[list[float]]:
    """A list that gets the most that is held at once inside, beyond what was held before."""
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    held, done = [resident_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            held.append(resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield peak
    done.set()
    watcher.join()
    peak.append((max(held) - held[0]) / 2**20)


def resident_bytes() -> int:
    """What the process holds of the machine's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
