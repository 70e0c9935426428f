"""What leaving out crops saves, and what it costs: crops, time, semantic mIoU.

    python tests/benchmarks/skipping.py RUN [--recipe tiny/ovseg] [--images 200] [--split val]

RUN has the annotated images of the recipe, a CLIP and proposals. The masks of an image are found
once, and encoded once for each pair of `least_score` and `same_above`, in turns; one process, one
thread. `--set` changes the recipe as everywhere. Empty masks are never encoded.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mask_class_tokens import timed

from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.metrics.semantic_iou import SemanticIou
from ovseg_cli.recipe import load_recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.scores import class_map
from ovseg_cli.stages.session import Settings, dataset_of, dataset_options
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals, Sample, Vocabulary


@dataclass
class Skipping:
    """What a setting gave."""

    least_score: float
    same_above: float | None
    miou: SemanticIou
    figures: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Prints a line of JSON a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipe", default="tiny/ovseg")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE")
    parser.add_argument("--split", help="default: the recipe's test")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--least-score", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--same-above", type=float, nargs="*", default=[0.9, 0.8, 0.7])
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(Run(options.run), load_recipe(options.recipe, options.set))
    segmenter = Segmenter.from_run(settings.run, settings.recipe)
    dataset = dataset_of(settings, options.split or dataset_options(settings).test)
    classes = len(dataset.vocabulary)
    pairs = itertools.product([0.0, *options.least_score], [None, *options.same_above])
    every = [Skipping(*pair, SemanticIou(classes)) for pair in pairs]
    for index in range(min(options.images, len(dataset))):
        add_image(segmenter, dataset[index], dataset.vocabulary, every)
    for setting in every:
        print(json.dumps(line(setting, classes)))


@torch.inference_mode()
def add_image(
    segmenter: Segmenter, sample: Sample, vocabulary: Vocabulary, every: list[Skipping]
) -> None:
    """Counts an image in each setting."""
    framed = segmenter.frame(sample.image)
    proposals = segmenter.propose(framed)
    seen = segmenter.seen(vocabulary)
    for setting in every:
        encoded = counted(segmenter, framed, proposals, vocabulary, setting)
        logits = segmenter.logits(framed, proposals, vocabulary, encoded=encoded)
        shares = segmenter.classification.combine(logits, seen=seen)
        found = segmenter.infer(encoded, shares, proposals, vocabulary, tasks=["semantic"])
        setting.miou.update(found.semantic, class_map(sample))
        setting.figures["proposals"] += len(proposals.scores)


def counted(
    segmenter: Segmenter,
    framed: FramedImage,
    proposals: Proposals,
    vocabulary: Vocabulary,
    setting: Skipping,
) -> EncodedMasks:
    """The masks as CLIP sees them; crops and CPU seconds are added to the setting's figures."""
    encoder, result = segmenter.mask_encoder, []
    if not isinstance(encoder, MaskedCrops):
        sys.exit("this measures masked_crops alone")
    encoder.least_score, encoder.same_above = setting.least_score, setting.same_above

    def note(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        setting.figures["crops"] += len(inputs[0])

    def encode() -> None:
        result.append(segmenter.encode(framed, proposals, vocabulary))

    hook = encoder.register_forward_pre_hook(note)
    setting.figures["cpu_seconds"] += timed(encode, torch.device("cpu"))[1]
    hook.remove()
    return result[0]


def line(setting: Skipping, classes: int) -> dict[str, object]:
    """The figures of a setting."""
    miou = setting.miou.compute({"all": torch.arange(classes).tolist()}).miou["all"]
    return {
        "least_score": setting.least_score,
        "same_above": setting.same_above,
        "crops": setting.figures["crops"],
        "proposals": setting.figures["proposals"],
        "cpu_seconds": round(setting.figures["cpu_seconds"], 2),
        "miou": round(100 * miou, 2),
    }


if __name__ == "__main__":
    main()
