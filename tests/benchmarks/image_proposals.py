"""Image proposals beside the released arithmetic and the tower alone: time, FLOPs, memory.

python tests/benchmarks/image_proposals.py [--model ViT-B-16-quickgelu] [--start-layer 8]
    [--masks 10 100 1000] [--repeats 5] [--device cpu]

Random weights, one image and its masks of 640 x 640 at stride 4, squashed to 480; one process, one
thread, interleaved, median. "ours" is all of `encode`, from the padded image and mask logits on.
"peer" is `tests/plain/maft.py`, which is handed the square image and the masks' probabilities at
640 x 640: one sequence of class tokens and patches, its bias in full in every layer. "tower" is
open_clip's own image tower at 480 with no masks, "tower_cut" the same with only the class token
computed in the last layer. "training" is a forward and backward pass for one image, with what
MAFT publishes as trained (attention and norms), from the square image on.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.mask_class_tokens import gmac, peak_megabytes, timed
from plain.maft import PlainImageProposals
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clip.image_proposals import stretched_positions
from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.clip.vision_transformer import image_tokens, project_class_tokens
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.structures import Frame, FramedImage, Proposals

FRAME = Frame((640, 640), (640, 640), (640, 640), align_corners=True)
TRAINED = ("attn.", "ln_1.", "ln_2.", "ln_post.")
Work = Callable[[], Tensor]


def parse() -> argparse.Namespace:
    """The benchmark's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--start-layer", type=int, default=8)
    parser.add_argument("--masks", type=int, nargs="+", default=[100])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-training", action="store_true")
    return parser.parse_args()


def tower_alone(encoder: ImageProposals, images: Tensor) -> Tensor:
    """open_clip's own layers, all of their tokens computed to the end."""
    visual, clip = encoder.clip.visual, encoder.clip
    positions = stretched_positions(visual.positional_embedding, encoder.grid)
    tokens = image_tokens(visual, (images / 255 - clip.mean) / clip.std, positions)
    return project_class_tokens(visual, visual.transformer(tokens))[:, 0]


def contenders(encoder: ImageProposals, masks: int, device: torch.device) -> dict[str, Work]:
    """What is compared, by name, on one random image."""
    framed = FramedImage(torch.rand(3, 640, 640, device=device) * 255, FRAME)
    coarse = 4 * torch.randn(masks, 1, 10, 10, device=device)
    logits = F.interpolate(coarse, (160, 160), mode="bilinear")[:, 0]
    proposals = Proposals(logits, FRAME, torch.ones(masks, device=device))
    at_pixels = F.interpolate(logits[None], (640, 640), mode="bilinear", align_corners=True)
    probabilities, images = at_pixels.sigmoid(), encoder.squashed(framed)[None]
    plain = PlainImageProposals(encoder)
    return {
        "ours": lambda: encoder.encode(framed, proposals).embeddings,
        "peer": lambda: plain.encode(images, probabilities)[0],
        "tower": lambda: tower_alone(encoder, images),
        "tower_cut": lambda: encoder.teacher(images),
    }


def training(encoder: ImageProposals, masks: int, device: torch.device) -> dict[str, Work]:
    """A step's passes through the masked branch, without its loss."""
    for name, parameter in encoder.visual.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINED))
    images = torch.rand(1, 3, 480, 480, device=device) * 255
    probabilities = torch.rand(1, masks, encoder.grid, encoder.grid, device=device)
    plain = PlainImageProposals(encoder)

    def step(encode: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        loss = encode(images, probabilities).square().sum()
        loss.backward()
        return loss

    return {
        "ours": lambda: step(encoder.mask_embeddings),
        "peer": lambda: step(plain.encode),
    }


def measured(works: dict[str, Work], repeats: int, device: torch.device) -> dict[str, object]:
    """Medians, taken in turns; then what is counted once."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(timed(work, device))
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in seconds[name]),
            "cpu_seconds": statistics.median(cpu for _, cpu in seconds[name]),
            "least_cpu_seconds": min(cpu for _, cpu in seconds[name]),
            "gflop": 2 * gmac(work),
            "peak_megabytes": peak_megabytes(device, work),
        }
        for name, work in works.items()
    }


def largest_difference(works: dict[str, Work]) -> float:
    """Of the peer's embeddings from ours."""
    return float((works["ours"]() - works["peer"]()).abs().max())


def main() -> None:
    """Prints the figures for each number of masks as JSON."""
    options = parse()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # the tower's: slower here, and not counted
    device = torch.device(options.device)
    print(json.dumps({**vars(options), "torch": torch.__version__}), flush=True)
    clip = load_open_clip(architecture=options.model, pretrained=None)
    for masks in options.masks:
        torch.manual_seed(0)
        encoder = ImageProposals(clip, start_layer=options.start_layer).to(device)
        works = contenders(encoder, masks, device)
        with torch.no_grad():
            figures = {
                "masks": masks,
                "largest_difference": largest_difference(works),
                **measured(works, options.repeats, device),
            }
        if not options.skip_training:
            tuned = ImageProposals(clip, start_layer=options.start_layer, tuned="maft").to(device)
            figures["training"] = measured(training(tuned, masks, device), options.repeats, device)
        print(json.dumps(figures, indent=1), flush=True)


if __name__ == "__main__":
    main()
