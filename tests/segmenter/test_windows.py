"""Where windows lie, and what is joined of them."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg_cli.segmenter.large_images import segment_in_windows
from ovseg_cli.segmenter.windows import SHARED, spans, windows
from ovseg_cli.structures import Instances, Segment, Segmentation

SIDE = 32


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(32, 200))
def test_windows_cover_an_axis_and_share_strips_with_their_neighbours_alone(
    length: int, side: int
) -> None:
    found = list(spans(length, side))
    assert found[0].start == found[0].cut == 0
    assert found[-1].stop == length
    assert {span.stop - span.start for span in found} == {min(side, length)}
    assert len(found) == 1 or side < length
    for before, after in pairwise(found):
        assert after.shared == before.stop
        assert before.stop - after.start >= side // SHARED
        assert abs((after.cut - after.start) - (before.stop - after.cut)) <= 1
    for (_, before), after in zip(pairwise(found), found[2:], strict=False):
        assert before.cut <= after.start


def test_every_pixel_is_painted_last_by_the_window_that_it_is_in_the_middle_of() -> None:
    owner = torch.full((50, 100), -1)
    for number, window in enumerate(windows((50, 100), SIDE)):
        owner[window.own] = number
    assert (owner >= 0).all()
    # columns: 0-32, 22-54, 45-77 and 68-100; the middles of the strips are 27, 50 and 73
    assert owner[0].tolist() == [0] * 27 + [1] * 23 + [2] * 23 + [3] * 27
    assert owner[:, 0].tolist() == [0] * 25 + [4] * 25  # rows: 0-32 and 18-50


def seen(pixels: Tensor) -> Segmentation:
    """What is painted: red says which thing, green its class; blue says stuff."""
    red, green, blue = (channel.long() for channel in pixels)
    masks, labels, segments = [], [], []
    panoptic = torch.zeros(red.shape, dtype=torch.int32)
    for thing, numbers in ((True, red), (False, blue)):
        for number in numbers.unique().tolist():
            mask = (numbers == number) & ((red == 0) | thing)
            if number and mask.any():
                label = int(green[mask][0]) if thing else number
                row = len(segments) + 1
                panoptic[mask] = row
                segments.append(Segment(row, label, thing, 0.5 + number / 20, int(mask.sum())))
                if thing:
                    masks.append(mask)
                    labels.append(label)
    scores = torch.tensor([s.score for s in segments if s.is_thing])
    found = Instances(
        torch.stack(masks) if masks else torch.zeros(0, *red.shape, dtype=torch.bool),
        torch.tensor(labels, dtype=torch.int64),
        scores,
    )
    return Segmentation(panoptic, tuple(segments), green + blue, found)


def painted(
    size: tuple[int, int], *things: tuple[int, int, int, int, int], stuff: int = 0
) -> Tensor:
    """A picture of boxes: class, top, left, bottom, right."""
    picture = torch.zeros(3, *size, dtype=torch.uint8)
    picture[2] = stuff
    for number, (label, top, left, bottom, right) in enumerate(things, start=1):
        picture[:, top:bottom, left:right] = torch.tensor([number, label, 0])[:, None, None].byte()
    return picture


def joined(picture: Tensor) -> Segmentation:
    return segment_in_windows(picture, seen, side=SIDE, top_k=10)


def test_a_thing_across_two_windows_is_one() -> None:
    result = joined(painted((20, 50), (3, 5, 10, 15, 40)))
    assert [(s.id, s.label, s.area) for s in result.segments] == [(1, 3, 300)]
    assert result.panoptic[5:15, 10:40].unique().tolist() == [1]
    assert result.instances.masks.sum() == 300
    assert result.instances.labels.tolist() == [3]
    assert result.semantic[5:15, 10:40].unique().tolist() == [3]


@pytest.mark.parametrize("side", [4, 8, 12, 30])
def test_a_thing_in_the_corner_of_four_windows_is_one(side: int) -> None:
    top, left = 25 - side // 2, 27 - side // 2  # rows are cut at 25, columns at 27
    result = joined(painted((50, 100), (3, top, left, top + side, left + side)))
    assert [segment.area for segment in result.segments] == [side * side]
    assert result.instances.masks.flatten(1).sum(1).tolist() == [side * side]


def test_things_of_one_class_that_do_not_touch_a_strip_stay_apart_and_stuff_is_one() -> None:
    # columns: windows 0-32 and 18-50, so that 18-32 is seen twice
    result = joined(painted((20, 50), (3, 5, 2, 15, 12), (3, 5, 40, 15, 48), stuff=7))
    assert [(s.label, s.area) for s in result.segments] == [(3, 100), (7, 820), (3, 80)]
    assert len(result.instances.labels) == 2


def shifting(left: int, right: int) -> Segmentation:
    """Two windows that see the same columns, a thing of so many rows each."""
    calls = iter((left, right))

    def segment(pixels: Tensor) -> Segmentation:
        mask = torch.zeros(pixels.shape[1:], dtype=torch.bool)
        mask[: next(calls)] = True
        one = Segment(1, 0, True, 0.9, int(mask.sum()))
        found = Instances(mask[None], torch.tensor([0]), torch.tensor([0.9]))
        return Segmentation(mask.int(), (one,), None, found)

    return segment_in_windows(torch.zeros(3, 20, 50).byte(), segment, side=SIDE, top_k=9)


@pytest.mark.parametrize(("left", "right", "count"), [(4, 7, 1), (4, 8, 2), (8, 4, 2)])
def test_what_overlaps_by_more_than_half_of_its_union_is_one(
    left: int, right: int, count: int
) -> None:
    result = shifting(left, right)
    assert len(result.segments) == len(result.instances.labels) == count
    assert result.panoptic[0].unique().numel() == count
    assert result.semantic is None


def test_other_classes_stay_apart() -> None:
    picture = painted((20, 50), (3, 5, 10, 15, 25), (4, 5, 25, 15, 40))
    result = joined(picture)
    assert [(s.label, s.area) for s in result.segments] == [(3, 150), (4, 150)]


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    """Four boxes, one in each quarter, of any size."""
    size = draw(st.integers(20, 110)), draw(st.integers(20, 110))
    things = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        low = [row * size[0] // 2, column * size[1] // 2]
        high = [(row + 1) * size[0] // 2, (column + 1) * size[1] // 2]
        ends = [sorted(draw(st.tuples(st.integers(a, b), st.integers(a, b))))
                for a, b in zip(low, high, strict=True)]  # fmt: skip
        (top, bottom), (left, right) = ends
        things.append((draw(st.integers(1, 3)), top, left, bottom, right))
    return painted(size, *things, stuff=draw(st.integers(0, 1)) * 9)


@settings(deadline=None, max_examples=40)
@given(pictures())
def test_what_every_window_sees_rightly_is_joined_into_the_whole(picture: Tensor) -> None:
    found, expected = joined(picture), seen(picture)
    assert torch.equal(found.semantic, expected.semantic)
    assert len(found.segments) == len(expected.segments)
    for segment in expected.segments:
        mask = expected.panoptic == segment.id
        (number,) = found.panoptic[mask].unique().tolist()
        same = found.segments[number - 1]
        assert (same.id, same.label, same.area) == (number, segment.label, segment.area)
        assert same.score == pytest.approx(segment.score)
    one, two = (i.scores.argsort(descending=True) for i in (found.instances, expected.instances))
    assert torch.equal(found.instances.masks[one], expected.instances.masks[two])
    assert torch.equal(found.instances.labels[one], expected.instances.labels[two])


def test_an_image_of_one_window_is_given_on_as_it_is() -> None:
    picture = painted((32, 20), (1, 2, 3, 4, 5))
    done = Segmentation()
    assert segment_in_windows(picture, lambda _: done, side=32, top_k=1) is done


def test_instances_are_the_best_of_all_windows() -> None:
    picture = painted((20, 50), (3, 5, 2, 15, 12), (4, 5, 40, 15, 48), (5, 1, 20, 4, 30))
    result = segment_in_windows(picture, seen, side=SIDE, top_k=2)
    assert result.instances.labels.tolist() == [5, 4]


def test_windows_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        segment_in_windows(torch.zeros(3, 50, 50).byte(), seen, side=31, top_k=1)
