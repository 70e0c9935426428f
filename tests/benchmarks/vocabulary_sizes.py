"""What more words cost after the networks: memory and time of an image, of 20 to 5,000 words.

python tests/benchmarks/vocabulary_sizes.py [--words 20 150 1203 5000] [--scale 100] [--tile 640]

Random masks at stride 4, random embeddings of 768 numbers, two random texts a word; a segmenter of
these parts makes each result of an image of 480 x 640. Memory is what tensors hold at once, beyond
what was there; the texts of a vocabulary are made once, before.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.mask_class_tokens import peak_megabytes, timed
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.classification import Classification
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.inference import TASKS, InferenceOptions, Task
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals, Vocabulary

WIDTH = 768
CPU = torch.device("cpu")
KINDS: dict[str, tuple[Task, ...]] = {**{task: (task,) for task in TASKS}, "all": TASKS}


class Texts:
    """The part of a CLIP that a segmenter asks for words."""

    logit_scale = 100.0

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        generator = torch.Generator().manual_seed(hash(sentences[0]) % 1000)
        return torch.randn(len(sentences), WIDTH, generator=generator)


class Masks:
    """A proposer and a mask encoder that say the same of every image."""

    def __init__(self, count: int) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._coarse = torch.randn(1, count, 8, 8, generator=self._generator)
        self._embeddings = torch.randn(count, WIDTH, generator=self._generator)
        self._scores = torch.rand(count, generator=self._generator)

    def propose(self, framed: FramedImage) -> Proposals:
        size = [side // 4 for side in framed.frame.padded]
        logits = 4 * F.interpolate(self._coarse, size, mode="bilinear")[0]
        return Proposals(logits, framed.frame, self._scores)

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        valid = torch.ones(len(self._embeddings), dtype=torch.bool)
        return EncodedMasks(self._embeddings, proposals.mask_logits, valid)


def vocabulary_of(words: int) -> Vocabulary:
    """Classes of two names each, every third one stuff."""
    names = tuple(f"w{number}" for number in range(words))
    synonyms = tuple((name, f"{name} too") for name in names)
    return Vocabulary(names, synonyms, tuple(number % 3 > 0 for number in range(words)))


def main() -> None:
    """Prints a line of JSON for each size of the vocabulary and each result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, nargs="+", default=[20, 150, 1203, 5000])
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640])
    parser.add_argument("--tile", type=int)
    parser.add_argument("--scale", type=float, default=100.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    masks = Masks(options.masks)
    segmenter = Segmenter(
        masks,
        masks,
        Texts(),
        classification=Classification(scale=options.scale, synonyms="max"),
        framing=FramingOptions(short_side=None, max_side=None),
        inference=InferenceOptions(object_threshold=0.0),
    )
    image = torch.zeros(3, *options.size, dtype=torch.uint8)
    for words in options.words:
        vocabulary = vocabulary_of(words)
        segmenter.text_embeddings(vocabulary)
        for kind, tasks in KINDS.items():

            def work(tasks: tuple[Task, ...] = tasks, words: Vocabulary = vocabulary) -> object:
                return segmenter.predict(image, words, tasks=tasks, tile=options.tile)

            seconds = statistics.median(timed(work, CPU)[1] for _ in range(options.repeats))
            row = {"cpu_seconds": round(seconds, 2), "peak_mb": round(peak_megabytes(CPU, work))}
            print(json.dumps({"words": words, "result": kind, **row}), flush=True)


if __name__ == "__main__":
    main()
