"""The three results of FC-CLIP's sizes beside the published way: time and memory.

python tests/benchmarks/inference.py [--classes 20 133 1203] [--repeats 3] [--device cpu]

250 random masks at stride 4 of an image of 800 x 1066, each above FC-CLIP's object threshold of 0.
One process, one thread, medians of one way after the other. The peer is `tests/plain/inference.py`;
each of its results includes upsampling, and so does each of ours. `all` upsamples once in both.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.mask_class_tokens import peak_megabytes, timed
from plain import inference as plain
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.inference import TASKS, InferenceOptions, Task, segment
from ovseg_cli.structures import Frame

FRAME = Frame(padded=(800, 1088), resized=(800, 1066), original=(800, 1066))
OPTIONS = InferenceOptions(object_threshold=0.0, overlap_threshold=0.8, reject_background=True)
KINDS: dict[str, tuple[Task, ...]] = {**{task: (task,) for task in TASKS}, "all": TASKS}


class Scene:
    """Random masks and classes, and both ways to their results."""

    def __init__(self, masks: int, classes: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(1, masks, 8, 8, generator=generator)
        self.logits = 4 * F.interpolate(coarse, (200, 272), mode="bilinear")[0].to(device)
        scores = 4 * torch.randn(masks, classes, generator=generator).to(device)
        self.probabilities = 0.99 * scores.softmax(-1)
        self.is_thing = (torch.rand(classes, generator=generator) > 0.4).to(device)

    def ours(self, tasks: tuple[Task, ...]) -> object:
        return segment(
            self.probabilities, self.logits, FRAME, self.is_thing, tasks=tasks, options=OPTIONS
        )

    def peer(self, tasks: tuple[Task, ...]) -> list[object]:
        logits = plain.upsampled(self.logits, FRAME)
        return [getattr(self, f"_{task}")(logits) for task in tasks]

    def _semantic(self, logits: Tensor) -> object:
        return plain.semantic(self.probabilities, logits).argmax(0)

    def _panoptic(self, logits: Tensor) -> object:
        return plain.panoptic(
            self.probabilities,
            1 - self.probabilities.sum(-1),
            logits,
            self.is_thing,
            object_threshold=OPTIONS.object_threshold,
            overlap_threshold=OPTIONS.overlap_threshold,
        )

    def _instance(self, logits: Tensor) -> object:
        return plain.instances(self.probabilities, logits, self.is_thing, top_k=OPTIONS.top_k)


def figures(work: Callable[[], object], repeats: int, device: torch.device) -> dict[str, float]:
    """Median process seconds, and the most memory at once beyond what was there."""
    seconds = statistics.median(timed(work, device)[1] for _ in range(repeats))
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(peak_megabytes(device, work))}


def main() -> None:
    """Prints the figures of both as JSON, for each size of the vocabulary and each result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 133, 1203])
    parser.add_argument("--masks", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    for classes in options.classes:
        scene = Scene(options.masks, classes, device)
        for kind, tasks in KINDS.items():
            row = {
                name: figures(lambda way=way, tasks=tasks: way(tasks), options.repeats, device)
                for name, way in (("ours", scene.ours), ("peer", scene.peer))
            }
            print(json.dumps({"classes": classes, "result": kind, **row}), flush=True)


if __name__ == "__main__":
    main()
