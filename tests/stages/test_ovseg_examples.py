"""The pairs that CLIP is tuned to, and the random crops that it is shown of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mined_folder import PAIRS, SIZE, pair_mask, write_pairs
from tiny_clip import tiny_clip
from torch.nn import functional as F

from ovseg_cli.datasets.annotated_masks import read_rgb
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import InputError
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops, boxes_of
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.ovseg_examples import OvsegExamples, random_box
from ovseg_cli.stages.ovseg_options import OvsegOptions
from ovseg_cli.stages.ovseg_pairs import AnnotatedPairs, CaptionPairs, JoinedPairs

CLIP = tiny_clip()
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
WHOLE = OvsegOptions(least_crop=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mined")
    return write_pairs(root / "pairs", root / "images")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, ShapesOptions(seed=1, **COUNTS))
    return CocoDataset(root, "train", part="seen")


def caption_pairs(folder: Path, **options: Any) -> CaptionPairs:
    return CaptionPairs(MinedPairs(folder), OvsegOptions(**options))


def examples(folder: Path, options: OvsegOptions, **encoder: Any) -> OvsegExamples:
    crops = MaskedCrops(CLIP, region="box", **{"fill": "mean", **encoder})
    return OvsegExamples(CaptionPairs(MinedPairs(folder), options), crops, options=options, seed=3)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"captions": 1}, [0, 2, 3]),
        ({"captions": 3}, [0, 1, 2, 3, 4]),
        ({"least_score": 0.2}, [0, 2, 3, 4]),
        ({"captions": 2, "least_score": 0.22}, [0, 2]),
    ],
)
def test_captions_and_scores_choose_the_pairs(
    folder: Path, options: dict[str, Any], kept: list[int]
) -> None:
    pairs = caption_pairs(folder, **options)
    assert len(pairs) == len(kept)
    for index, number in enumerate(kept):
        pixels, mask = pairs.read(index)
        assert pairs.noun(index) == PAIRS[number][2]
        assert torch.equal(mask, pair_mask(number))
        name = PAIRS[number][0]
        assert torch.equal(pixels, read_rgb(folder.parent / "images" / name, SIZE))


def test_no_pair_at_all_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="6 pairs, none of them of the captions and scores"):
        caption_pairs(folder, least_score=0.9)


def test_images_are_decoded_once_where_they_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def noted(path: Path, size: tuple[int, int]) -> torch.Tensor:
        decoded.append(path.name)
        return read_rgb(path, size)

    monkeypatch.setattr("ovseg_cli.stages.ovseg_pairs.read_rgb", noted)
    for cached, expected in ((3, 3), (0, 12)):
        pairs = caption_pairs(folder, cached_images=cached)
        for _ in range(2):
            [pairs.read(index) for index in range(6)]
        assert len(decoded) == expected
        decoded.clear()


def test_annotated_masks_come_with_the_names_of_their_seen_classes(shapes: CocoDataset) -> None:
    pairs = AnnotatedPairs(shapes, cached_images=1)
    expected = [
        (shapes.vocabulary.names[label], mask)
        for sample in shapes
        for label, mask in zip(sample.labels.tolist(), sample.masks, strict=True)
    ]
    assert len(pairs) == len(expected)
    for index, (name, mask) in enumerate(expected):
        assert pairs.noun(index) == name
        assert torch.equal(pairs.read(index).mask, mask)


def test_joined_pairs_follow_one_another(folder: Path, shapes: CocoDataset) -> None:
    mined, annotated = caption_pairs(folder), AnnotatedPairs(shapes)
    both = JoinedPairs([mined, annotated])
    assert len(both) == 6 + len(annotated)
    assert [both.noun(5), both.noun(6)] == [mined.noun(5), annotated.noun(0)]
    assert torch.equal(both.read(6).mask, annotated.read(0).mask)
    with pytest.raises(IndexError):
        both.noun(len(both))


def test_a_crop_of_the_whole_box_is_what_prediction_looks_at(folder: Path) -> None:
    made = examples(folder, replace(WHOLE, batch_size=6))
    batch = made.batch_at(0)
    for row in range(6):
        pixels, mask = made.pairs.read(made.index_at(row))
        expected = made.encoder.crops(pixels.float(), mask[None])
        torch.testing.assert_close(batch.crops[row], expected.pixels[0])
        assert torch.equal(batch.masks[row], expected.masks[0])
        assert made.nouns[batch.nouns[row]] == made.pairs.noun(made.index_at(row))


def test_crop_and_mask_are_cut_alike(folder: Path) -> None:
    """A white image with a black mask: what is black of the crop is the mask."""
    made = examples(folder, OvsegOptions(batch_size=6), fill="none")
    for number in range(6):
        pixels, mask = torch.full((3, *SIZE), 255, dtype=torch.uint8), pair_mask(number)
        made.pairs = Painted(torch.where(mask, 0, pixels), mask)
        crops, masks = made._cut(made._region(0, number))
        assert ((crops[0].mean(0) < 128) == masks[0]).float().mean() > 0.97


class Painted:
    def __init__(self, pixels: torch.Tensor, mask: torch.Tensor) -> None:
        self.shown = (pixels, mask)

    def __len__(self) -> int:
        return 1

    def noun(self, index: int) -> str:
        return "mask"

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.shown


def test_without_masks_what_lies_around_is_seen_and_nothing_is_blank(folder: Path) -> None:
    made = examples(folder, replace(WHOLE, batch_size=6, masked=False))
    batch = made.batch_at(0)
    assert batch.masks.all()
    pixels, mask = made.pairs.read(made.index_at(0))
    left, top, right, bottom = boxes_of(mask[None])[0].tolist()
    box = pixels[None, :, top:bottom, left:right].float()
    expected = F.interpolate(box, (32, 32), mode="bicubic")
    torch.testing.assert_close(batch.crops[:1], expected, atol=1e-2, rtol=1e-4)


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    options = OvsegOptions(batch_size=4)
    first, again = examples(folder, options), examples(folder, options)
    batches = [first.batch_at(step) for step in range(4)]
    for step in (2, 0, 3):
        later = again.batch_at(step)
        assert all(torch.equal(a, b) for a, b in zip(batches[step], later, strict=True))
    assert not torch.equal(batches[0].crops, batches[3].crops)
    other = OvsegExamples(first.pairs, first.encoder, options=options, seed=4)
    assert not torch.equal(other.batch_at(0).crops, batches[0].crops)


def test_an_epoch_has_every_pair_once(folder: Path) -> None:
    made = examples(folder, OvsegOptions())
    for epoch in range(3):
        order = [made.index_at(6 * epoch + place) for place in range(6)]
        assert sorted(order) == list(range(6))


def test_processes_share_the_batch_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = examples(folder, OvsegOptions(batch_size=4))
    whole = made.batch_at(1)
    monkeypatch.setattr("ovseg_cli.training.distributed.world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr("ovseg_cli.training.distributed.rank", lambda rank=rank: rank)
        part = made.batch_at(1)
        for found, expected in zip(part, whole, strict=True):
            assert torch.equal(found, expected[2 * rank : 2 * rank + 2])


BOXES = st.tuples(*[st.integers(0, 50)] * 2, *[st.integers(1, 60)] * 2)


@settings(max_examples=200, deadline=None)
@given(BOXES, st.floats(0.2, 0.99), st.integers(0, 10_000))
def test_a_random_box_lies_inside_and_is_large_enough(
    place: tuple[int, int, int, int], least: float, seed: int
) -> None:
    left, top, width, height = place
    whole = (left, top, left + width, top + height)
    generator = torch.Generator().manual_seed(seed)
    x0, y0, x1, y1 = random_box(whole, generator, least=least, relative=True)
    assert left <= x0 < x1 <= whole[2]
    assert top <= y0 < y1 <= whole[3]
    side = 0.5 + least**0.5 * 1.155  # half a pixel of rounding a side
    slack = (width + height) * side / 2
    assert (x1 - x0) * (y1 - y0) >= least * width * height - slack


def test_as_released_the_ends_of_a_long_box_are_cut_off() -> None:
    generator = torch.Generator().manual_seed(0)
    assert random_box((5, 0, 15, 100), generator, least=0.9, relative=False) == (5, 43, 15, 56)
    assert random_box((0, 5, 100, 15), generator, least=0.9, relative=False) == (43, 5, 56, 15)
    x0, y0, x1, y1 = random_box((5, 0, 15, 100), generator, least=0.9, relative=True)
    assert (x1 - x0) * (y1 - y0) >= 850


def test_random_boxes_are_those_of_torchvisions_distribution() -> None:
    """Of a square: the area is even in its range, and so is the logarithm of the ratio, cut off."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor(
        [random_box((0, 0, 1000, 1000), generator, least=0.5, relative=False) for _ in range(600)]
    )
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = width * height / 1e6
    assert 0.5 <= areas.min() < 0.51
    assert (width / height).log().mean().abs() < 0.02
    free = (1000 - width).clamp(min=1)
    assert (boxes[:, 0] / free).mean() == pytest.approx(0.5, abs=0.05)


def test_a_crop_without_a_pixel_of_the_mask_gives_way_to_the_whole_box(folder: Path) -> None:
    made = examples(folder, OvsegOptions(batch_size=2))
    mask = torch.zeros(100, 10, dtype=torch.bool)
    mask[0, 3], mask[99, 6] = True, True  # the middle is empty
    made.pairs = Painted(torch.zeros(3, 100, 10, dtype=torch.uint8), mask)
    assert made._region(0, 0).mask.shape == (100, 4)
