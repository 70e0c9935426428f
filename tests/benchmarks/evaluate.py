"""What scoring an image costs, beside counting pairs by `np.unique`, and torchmetrics.

python tests/benchmarks/evaluate.py [--classes 20 150 847] [--repeats 9]

Images of 480 x 640 with about 20 annotated and 20 found segments. One process, one thread, medians,
one way after the other. Ours is `Scores.update`, from masks and the two maps; its parts are timed
too. The peer is `tests/plain/panoptic_and_semantic_metrics.py`, which is given finished maps.
torchmetrics has no crowds and is timed once.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from plain.panoptic_and_semantic_metrics import PlainPanoptic, PlainSemantic, Segments
from torch import Tensor

import ovseg_cli.torchvision_ops  # noqa: F401  torchmetrics imports torchvision
from ovseg_cli.metrics.panoptic_quality import PanopticQuality
from ovseg_cli.metrics.proposal_recall import ProposalRecall
from ovseg_cli.metrics.semantic_iou import SemanticIou
from ovseg_cli.stages.scores import Scores, class_map, segment_map
from ovseg_cli.structures import Instances, Sample, Segment, Segmentation, Vocabulary

SIZE = (480, 640)
PROPOSALS = 100


def painted(generator: torch.Generator, count: int) -> Tensor:
    """Segments from 1 on, rectangles over one another; 0 is void."""
    ids = torch.zeros(SIZE, dtype=torch.int64)
    for segment in range(1, count + 1):
        top, left = (int(torch.randint(0, side, (1,), generator=generator)) for side in SIZE)
        height, width = torch.randint(40, 300, (2,), generator=generator).tolist()
        ids[top : top + height, left : left + width] = segment
    present = torch.cat([torch.zeros(1).long(), ids[ids > 0].unique()])
    return torch.searchsorted(present, ids)


class Scene:
    """An annotated image, what was found in it, and the ways to score it."""

    def __init__(self, classes: int, segments: int = 25) -> None:
        generator = torch.Generator().manual_seed(0)
        self.classes = classes
        truth, found = painted(generator, segments), painted(generator, segments)
        # a few segments are found as they are
        self.truth, self.found = truth, torch.where(truth <= 4, truth, found + 4)
        self.labels = self._labels(self.truth, generator)
        self.found_labels = self._labels(self.found, generator)
        self.found_labels[:4] = self.labels[:4]
        masks = self.truth == torch.arange(1, len(self.labels) + 1)[:, None, None]
        nobody = torch.zeros(len(masks), dtype=torch.bool)
        image = torch.zeros(3, *SIZE, dtype=torch.uint8)
        self.sample = Sample(image, 1, "", masks, self.labels, nobody)
        self.result = self._result()
        self.proposals = torch.rand(PROPOSALS, *SIZE, generator=generator) > 0.7

    def ways(self) -> dict[str, Callable[[], object]]:
        """What is timed, by name."""
        names = tuple(f"c{i}" for i in range(self.classes))
        words = Vocabulary(names, tuple((n,) for n in names), (True,) * self.classes)
        scores = Scores(words, tasks=("panoptic", "semantic"))
        with_instances = Scores(words, tasks=("panoptic", "semantic", "instance"))
        iou, quality = SemanticIou(self.classes), PanopticQuality(self.classes)
        recall = ProposalRecall(self.classes)
        target, panoptic = class_map(self.sample), self.result.panoptic
        nobody = self.sample.is_crowd
        return {
            "ours": lambda: scores.update(self.result, self.sample),
            "ours with AP": lambda: with_instances.update(self.result, self.sample),
            "  painting masks": lambda: segment_map(self.sample),
            "  mIoU": lambda: iou.update(self.result.semantic, target),
            "  PQ": lambda: quality.update(
                panoptic, self.found_labels, self.truth, self.labels, nobody
            ),
            "  recall of 100 masks": lambda: recall.update(
                self.proposals, self.sample.masks, self.labels, nobody
            ),
            **self._peers(target),
        }

    def _peers(self, target: Tensor) -> dict[str, Callable[[], object]]:
        plain_iou, plain_quality = PlainSemantic(), PlainPanoptic()
        semantic = self.result.semantic.numpy()
        truth = Segments(self.truth.numpy(), self.labels.tolist(), [False] * len(self.labels))
        found = Segments(self.found.numpy(), self.found_labels.tolist(), [])
        return {
            "plain mIoU": lambda: plain_iou.update(target.numpy(), semantic),
            "plain PQ": lambda: plain_quality.update(truth, found),
        }

    def torchmetrics(self) -> dict[str, Callable[[], object]]:
        """Its metrics on the same maps, where it is installed."""
        try:
            from torchmetrics.classification import MulticlassJaccardIndex
            from torchmetrics.detection import PanopticQuality as Quality
        except ImportError:
            return {}
        jaccard = MulticlassJaccardIndex(self.classes, ignore_index=-1)
        quality = Quality(things=set(range(self.classes)), stuffs={self.classes})
        maps = [
            torch.stack([torch.cat([torch.tensor([self.classes]), labels])[ids], ids], -1)[None]
            for ids, labels in ((self.found, self.found_labels), (self.truth, self.labels))
        ]
        semantic, target = self.result.semantic[None], class_map(self.sample)[None]
        return {
            "torchmetrics mIoU": lambda: jaccard.update(semantic, target),
            "torchmetrics PQ": lambda: quality.update(*maps),
        }

    def _labels(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(0, self.classes, (int(ids.max()),), generator=generator)

    def _result(self) -> Segmentation:
        segments = tuple(
            Segment(i, label, True, 1.0, 1) for i, label in enumerate(self.found_labels.tolist(), 1)
        )
        semantic = torch.cat([torch.tensor([0]), self.found_labels])[self.found]
        masks = self.found == torch.arange(1, len(segments) + 1)[:, None, None]
        instances = Instances(masks, self.found_labels, torch.ones(len(segments)))
        return Segmentation(self.found, segments, semantic, instances)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median process time of a call, after one that does not count; of one call, its own."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times[repeats > 1 :]), 2)


def main() -> None:
    """Prints milliseconds an image as JSON, a line for each size of the vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150, 847])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for classes in options.classes:
        scene = Scene(classes)
        figures = {name: milliseconds(work, options.repeats) for name, work in scene.ways().items()}
        figures |= {name: milliseconds(work, 1) for name, work in scene.torchmetrics().items()}
        counts = {"annotated": len(scene.labels), "found": len(scene.found_labels)}
        print(json.dumps({"classes": classes, **counts, "milliseconds": figures}), flush=True)


if __name__ == "__main__":
    main()
