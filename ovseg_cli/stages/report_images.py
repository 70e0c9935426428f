"""What an evaluation's report shows of the images: the best and the worst, and what is mistaken."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from ovseg_cli.metrics.image_scores import image_iou, image_quality, matched_segments
from ovseg_cli.rendering import MIN_INSTANCE_SCORE, overlay
from ovseg_cli.report.evaluation import ScoredPicture
from ovseg_cli.report.extremes import Extremes
from ovseg_cli.report.pictures import Picture, picture_of
from ovseg_cli.stages.scores import class_map, segment_map
from ovseg_cli.structures import VOID, Sample, Segment, Segmentation, Vocabulary

KEPT = 6  # images at each end
LONGEST_SIDE = 512
MOST_BYTES = 70_000  # of a drawing: 24 of them are 2.2 MB of text
MOST_MISTAKES = 4


@dataclass(frozen=True)
class _Kept:
    """An image at the size of its drawing, with what was found and what is annotated as regions."""

    name: str
    image: UInt8[Tensor, "3 H W"]
    found: Segmentation
    annotated: Segmentation
    mistakes: tuple[tuple[int, int], ...]


class ReportImages:
    """Scores every image alone; keeps a few of them, and counts which segments are mistaken."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts empty.

        Args:
            vocabulary: the dataset's classes.
        """
        self.vocabulary = vocabulary
        self.mistaken: Counter[tuple[int, int]] = Counter()
        self.annotated = np.zeros(len(vocabulary), dtype=np.int64)
        self.score_name: Literal["PQ", "mIoU"] = "PQ"
        self._kept: Extremes[_Kept] = Extremes(KEPT)

    def update(self, result: Segmentation, sample: Sample) -> None:
        """Counts an image.

        Args:
            result: what was found: its panoptic map counts, else its instances, else its classes.
            sample: the annotated image.
        """
        if result.panoptic is None and result.instances is None:
            self._update_classes(result, sample)
        else:
            self._update_segments(result, sample)

    def best(self) -> list[ScoredPicture]:
        """Images with the highest scores, best first."""
        return [self._picture(score, kept) for score, kept in self._kept.best()]

    def worst(self) -> list[ScoredPicture]:
        """Images with the lowest scores, worst first."""
        return [self._picture(score, kept) for score, kept in self._kept.worst()]

    def _update_segments(self, result: Segmentation, sample: Sample) -> None:
        found = _found_segments(result)
        assert found.panoptic is not None
        labels = torch.tensor([s.label for s in found.segments], dtype=torch.int64)
        target, counted = segment_map(sample), ~sample.is_crowd
        prediction = found.panoptic.cpu()
        pairs = [
            (int(sample.labels[row]), int(labels[column]))
            for row, column in matched_segments(prediction, target, counted)
        ]
        mistakes = tuple(pair for pair in pairs if pair[0] != pair[1])
        self.mistaken.update(mistakes)
        np.add.at(self.annotated, sample.labels[counted].cpu().numpy(), 1)
        score = image_quality(prediction, labels, target, sample.labels, sample.is_crowd)
        if score is not None:
            annotated = _segments_of(target, sample.labels, self.vocabulary)
            self._kept.add(score, lambda: _reduced(sample, found, annotated, mistakes))

    def _update_classes(self, result: Segmentation, sample: Sample) -> None:
        assert result.semantic is not None
        self.score_name = "mIoU"
        found, annotated = result.semantic.cpu(), class_map(sample)
        score = image_iou(found, annotated)
        if score is not None:
            self._kept.add(
                score, lambda: _reduced(sample, _class_regions(found), _class_regions(annotated))
            )

    def _picture(self, score: float, kept: _Kept) -> ScoredPicture:
        names = self.vocabulary.names
        return ScoredPicture(
            name=kept.name,
            score=score,
            found=self._drawn(kept.image, kept.found),
            annotated=self._drawn(kept.image, kept.annotated, scores=False),
            mistakes=[(names[a], names[b]) for a, b in kept.mistakes[:MOST_MISTAKES]],
        )

    def _drawn(
        self, image: UInt8[Tensor, "3 H W"], regions: Segmentation, *, scores: bool = True
    ) -> Picture:
        drawing = overlay(image, regions, self.vocabulary, scores=scores)
        longest = max(drawing.size)  # the drawing is of the right size, below it stands a legend
        return picture_of(drawing, longest_side=longest, most_bytes=MOST_BYTES)


def _found_segments(result: Segmentation) -> Segmentation:
    """The panoptic map, or one painted of the instances, the best ones on top."""
    if result.panoptic is not None or result.instances is None:
        return result
    found = result.instances
    count = int((found.scores >= MIN_INSTANCE_SCORE).sum())
    numbers = torch.zeros(found.masks.shape[1:], dtype=torch.int64)
    for row in reversed(range(count)):
        numbers[found.masks[row].cpu()] = row + 1
    areas = numbers.flatten().bincount(minlength=count + 1).tolist()
    rows = zip(found.labels.tolist(), found.scores.tolist(), areas[1:], strict=False)
    segments = [
        Segment(number, label, True, score, area)
        for number, (label, score, area) in enumerate(rows, start=1)
    ]
    return Segmentation(panoptic=numbers, segments=tuple(segments))


def _segments_of(
    numbers: Int[Tensor, "H W"], labels: Int[Tensor, " M"], vocabulary: Vocabulary
) -> Segmentation:
    areas = numbers.flatten().bincount(minlength=len(labels) + 1).tolist()
    rows = zip(labels.tolist(), areas[1:], strict=True)
    segments = [
        Segment(number, label, vocabulary.is_thing[label], 1.0, area)
        for number, (label, area) in enumerate(rows, start=1)
    ]
    return Segmentation(panoptic=numbers, segments=tuple(segments))


def _class_regions(classes: Int[Tensor, "H W"]) -> Segmentation:
    labels, numbers, areas = np.unique(classes.numpy(), return_inverse=True, return_counts=True)
    void = int(labels[0] == VOID)  # the first one, where there is void at all
    rows = zip(labels[void:].tolist(), areas[void:].tolist(), strict=True)
    segments = [
        Segment(number, label, False, 1.0, area)
        for number, (label, area) in enumerate(rows, start=1)
    ]
    panoptic = torch.from_numpy(numbers.reshape(classes.shape) + 1 - void)
    return Segmentation(panoptic=panoptic, segments=tuple(segments))


def _reduced(
    sample: Sample,
    found: Segmentation,
    annotated: Segmentation,
    mistakes: tuple[tuple[int, int], ...] = (),
) -> _Kept:
    height, width = sample.image.shape[1:]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(sample.image.permute(1, 2, 0).cpu().numpy())
    pixels = np.array(image.resize(size, Image.Resampling.BOX))
    return _Kept(
        sample.file_name,
        torch.from_numpy(pixels).permute(2, 0, 1),
        _resized(found, size),
        _resized(annotated, size),
        mistakes,
    )


def _resized(regions: Segmentation, size: tuple[int, int]) -> Segmentation:
    assert regions.panoptic is not None
    numbers = Image.fromarray(regions.panoptic.cpu().numpy().astype(np.int32))
    small = np.array(numbers.resize(size, Image.Resampling.NEAREST))
    return Segmentation(panoptic=torch.from_numpy(small), segments=regions.segments)
