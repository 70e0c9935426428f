"""What is kept of the images for a report: few, small, and the right ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import picture

from ovseg_cli.stages.report_images import KEPT, LONGEST_SIDE, MOST_BYTES, ReportImages
from ovseg_cli.structures import Instances, Sample, Segment, Segmentation, Vocabulary

NAMES = ("dog", "cat", "sky")
VOCABULARY = Vocabulary(NAMES, tuple((name,) for name in NAMES), (True, True, False))


def sample(name: str = "a.jpg", *, size: tuple[int, int] = (20, 40), label: int = 0) -> Sample:
    """On the left a thing, on the right the sky."""
    height, width = size
    left = torch.zeros(height, width, dtype=torch.bool)
    left[:, : width // 2] = True
    return Sample(
        image=torch.full((3, height, width), 90, dtype=torch.uint8),
        image_id=1,
        file_name=name,
        masks=torch.stack([left, ~left]),
        labels=torch.tensor([label, 2]),
        is_crowd=torch.tensor([False, False]),
    )


def panoptic(of: Sample, *labels: int) -> Segmentation:
    """The annotated outlines under these labels."""
    numbers = (of.masks * torch.tensor([1, 2])[:, None, None]).sum(0)
    segments = [
        Segment(number, label, VOCABULARY.is_thing[label], 0.9, int((numbers == number).sum()))
        for number, label in enumerate(labels, start=1)
    ]
    return Segmentation(panoptic=numbers.int(), segments=tuple(segments))


def test_the_worst_image_says_what_was_mistaken() -> None:
    images = ReportImages(VOCABULARY)
    for name, labels in (("good.jpg", (0, 2)), ("bad.jpg", (1, 2)), ("fine.jpg", (0, 2))):
        images.update(panoptic(sample(name), *labels), sample(name))
    worst, best = images.worst(), images.best()
    assert [(image.name, image.score) for image in worst] == [("bad.jpg", 0.5), ("fine.jpg", 1.0)]
    assert [image.name for image in best] == ["good.jpg"]
    assert worst[0].mistakes == [("dog", "cat")]
    assert images.mistaken == {(0, 1): 1}
    assert images.annotated.tolist() == [3, 0, 3]
    assert images.score_name == "PQ"


def test_crowds_are_neither_mistaken_nor_counted() -> None:
    images, image = ReportImages(VOCABULARY), sample()
    image.is_crowd[0] = True
    images.update(panoptic(image, 1, 2), image)
    assert not images.mistaken
    assert images.annotated.tolist() == [0, 0, 1]


def test_instances_are_painted_with_the_best_on_top() -> None:
    """The second one, which is hidden but for a strip, is what is scored beside the first."""
    image = sample()
    whole = torch.ones(20, 40, dtype=torch.bool)
    found = Instances(
        masks=torch.stack([image.masks[0], whole, whole]),
        labels=torch.tensor([0, 1, 0]),
        scores=torch.tensor([0.9, 0.6, 0.4]),
    )
    images = ReportImages(VOCABULARY)
    images.update(Segmentation(instances=found), image)
    assert images.worst()[0].score == pytest.approx(1 / 2)  # 1 match, 1 too many, the sky missed
    assert images.mistaken == {(2, 1): 1}


def test_semantic_maps_are_scored_by_classes() -> None:
    image = sample()
    classes = torch.where(image.masks[0], 0, 2)
    classes[:, :10] = -1
    images = ReportImages(VOCABULARY)
    images.update(Segmentation(semantic=classes), image)
    assert images.score_name == "mIoU"
    assert images.worst()[0].score == pytest.approx((0.5 + 1) / 2)
    assert not images.mistaken


def test_an_image_without_annotations_counts_nowhere() -> None:
    bare = sample()
    empty = Sample(bare.image, 1, "a.jpg", bare.masks[:0], bare.labels[:0], bare.is_crowd[:0])
    images = ReportImages(VOCABULARY)
    images.update(Segmentation(panoptic=torch.zeros(20, 40, dtype=torch.int32)), empty)
    images.update(Segmentation(semantic=torch.zeros(20, 40, dtype=torch.int64)), empty)
    assert images.worst() == images.best() == []


def test_large_images_are_kept_small_and_few_of_them() -> None:
    images = ReportImages(VOCABULARY)
    for number in range(2 * KEPT + 3):
        large = sample(f"{number}.jpg", size=(600, 1500), label=number % 2)
        images.update(panoptic(large, 0, 2), large)
    kept = [*images.best(), *images.worst()]
    assert len(kept) == 2 * KEPT
    for image in kept:
        assert len(image.found.uri) < 1.4 * MOST_BYTES
        assert picture(image.found.uri).width == LONGEST_SIDE


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_images_of_any_shape_are_drawn(height: int, width: int) -> None:
    images, image = ReportImages(VOCABULARY), sample(size=(height, width))
    images.update(panoptic(image, 0, 2), image)
    (made,) = images.worst()
    assert made.found.size == made.annotated.size
