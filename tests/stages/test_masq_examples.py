"""The images, visible patches and labels that MasQ-Tuning learns from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.losses.classification import IGNORED
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.masq_examples import MasqExamples, seen_labels, square
from ovseg_cli.stages.masq_options import MasqOptions
from ovseg_cli.structures import Frame, FramedImage, Proposals, Vocabulary

CLIP = {
    "embed_dim": 16,
    "image_size": 64,
    "patch_size": 16,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "text_width": 16,
    "text_heads": 2,
    "token_width": 4,
    "context_length": 8,
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(seed=1, **COUNTS))
    return folder


class HalfImage:
    """Proposes the left half, and nothing."""

    calls = 0

    def propose_batch(self, images: Tensor) -> list[Proposals]:
        frame = Frame(*(tuple(images.shape[-2:]) for _ in range(3)))
        return [self.propose(FramedImage(image, frame)) for image in images]

    def propose(self, framed: FramedImage) -> Proposals:
        self.calls += 1
        logits = torch.full((2, 16, 16), -5.0)
        logits[0, :, :8] = 5
        return Proposals(logits, framed.frame, torch.ones(2))


def examples(shapes: Path, **options: Any) -> MasqExamples:
    clip = ClipEncoder(build_small_clip(**CLIP))
    encoder = MaskClassTokens(clip, variant="q")
    settings = MasqOptions(**{"image_size": 128, **options})
    dataset = CocoDataset(shapes, "train")
    return MasqExamples(dataset, HalfImage(), encoder, options=settings, seed=3)


@pytest.mark.parametrize("augmentation", ["squash", "jitter"])
def test_a_batch_is_a_function_of_the_step_alone(shapes: Path, augmentation: str) -> None:
    first, second = (examples(shapes, augmentation=augmentation) for _ in range(2))
    first.batch_at(0)
    for own, other in zip(first.batch_at(5), second.batch_at(5), strict=True):
        assert torch.equal(own, other)


def test_every_image_comes_once_an_epoch(shapes: Path) -> None:
    some = examples(shapes)
    for epoch in range(3):
        drawn = [some.drawn(epoch * 4 + place)[0] for place in range(4)]
        assert sorted(drawn) == [0, 1, 2, 3]


def test_proposals_are_made_once_and_kept_exactly(shapes: Path) -> None:
    some = examples(shapes)
    first = some.example(0, False)
    again = some.example(0, False)
    assert some.proposer.calls == 1
    assert all(torch.equal(own, other) for own, other in zip(first, again, strict=True))
    visible = first[1].view(2, 4, 4)
    assert visible[0].all(dim=0).tolist() == [True, True, False, False]
    assert not visible[1].any()


def test_annotated_masks_keep_their_own_labels(shapes: Path) -> None:
    some = examples(shapes, masks="both")
    sample = some.dataset[0]
    image, visible, labels = some.example(0, False)
    mirrored, turned, _ = some.example(0, True)
    assert labels[2:].tolist() == some.label_of[sample.labels].tolist()
    assert torch.equal(mirrored, image.flip(-1))
    grid = visible[2:].unflatten(1, (4, 4))
    assert torch.equal(turned[2:].unflatten(1, (4, 4)), grid.flip(-1))


def test_jittered_images_differ_from_epoch_to_epoch_and_are_examined_each_time(
    shapes: Path,
) -> None:
    some = examples(shapes, augmentation="jitter")
    of_image = {some.drawn(position)[0]: [] for position in range(4)}
    for position in range(8):
        (example,) = some.jittered_examples([position])
        of_image[some.drawn(position)[0]].append(example.image)
    assert some.proposer.calls == 8
    assert all(not torch.equal(*images) for images in of_image.values())


def test_what_jittering_adds_is_grey_and_shows_no_annotated_mask(shapes: Path) -> None:
    scales = {"smallest_scale": 0.5, "largest_scale": 0.5}
    some = examples(shapes, augmentation="jitter", masks="both", **scales)
    for image, visible, labels in some.jittered_examples(range(4)):
        assert image.shape == (3, 128, 128)
        assert (image[:, 64:] == 128).all()
        assert (image[:, :, 64:] == 128).all()
        annotated = visible[2:].unflatten(1, (4, 4))
        assert annotated[:, :2, :2].any()
        assert not annotated[:, 2:].any()
        assert visible[0].view(4, 4)[:, :2].all()  # a proposal may lie on it
        assert len(labels) == len(visible) > 2


@pytest.mark.parametrize("augmentation", ["squash", "jitter"])
def test_an_image_without_annotated_masks_of_seen_classes_is_all_background(
    shapes: Path, augmentation: str
) -> None:
    some = examples(shapes, augmentation=augmentation)
    some.label_of = torch.full_like(some.label_of, IGNORED)
    assert (some.batch_at(0).labels == some.background).all()


@pytest.mark.parametrize(("overlap", "positive"), [("dice", True), ("iou", False)])
def test_an_iou_of_a_half_is_near_by_dice_alone(shapes: Path, overlap: str, positive: bool) -> None:
    """Its Dice is two thirds; the threshold of both is 0.6."""
    some = examples(shapes, overlap=overlap)
    sample = some.dataset[0]
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[:, :64, :64] = True  # half of the left half
    annotated = replace(sample, masks=masks, labels=sample.labels[:1], is_crowd=sample.is_crowd[:1])
    some.label_of = torch.zeros_like(some.label_of)
    ((_, labels),) = some._examine(torch.zeros(1, 3, 128, 128), [annotated])
    assert labels.tolist() == [0 if positive else some.background, some.background]


def test_a_seen_class_keeps_its_order_and_an_unseen_one_has_no_label() -> None:
    names = ("a", "b", "c")
    vocabulary = Vocabulary(names, tuple((n,) for n in names), (True,) * 3, (True, False, True))
    background, labels = seen_labels(vocabulary)
    assert background == 2
    assert labels.tolist() == [0, IGNORED, 1]


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(square(image, 8, False), image.float())
    assert square(image, 4, True).shape == (3, 4, 4)
