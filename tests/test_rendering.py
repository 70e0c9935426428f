from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_cli.rendering import class_color, overlay, segment_colors
from ovseg_cli.rendering.legend import BACKGROUND, FONT_SIZE, fitting, font, with_legend
from ovseg_cli.structures import Instances, Segment, Segmentation
from ovseg_cli.vocabulary import builtin_vocabulary, parse_labels

WORDS = parse_labels("dog,cat,grass")


def grey(height: int, width: int):
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def scene(height: int = 40, width: int = 60) -> Segmentation:
    panoptic = torch.full((height, width), 2, dtype=torch.int32)
    panoptic[10:30, 10:40] = 7  # ids need not be dense
    panoptic[:5] = 0
    segments = (Segment(2, 2, False, 0.9, 1500), Segment(7, 0, True, 0.8, 600))
    return Segmentation(panoptic, segments)


def test_small_images_grow_by_a_whole_factor_and_large_ones_shrink() -> None:
    assert overlay(grey(40, 60), scene(), WORDS).width == 60 * 8
    assert overlay(grey(128, 128), scene(128, 128), WORDS).width == 512
    assert overlay(grey(600, 700), scene(600, 700), WORDS).width == 700
    assert overlay(grey(2000, 2560), scene(2000, 2560), WORDS).width == 1280


def test_the_same_input_gives_the_same_picture() -> None:
    first, second = (overlay(grey(40, 60), scene(), WORDS) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_segments_have_their_classs_hue_and_void_has_none() -> None:
    picture = np.asarray(overlay(grey(600, 700), scene(600, 700), WORDS)).astype(int)
    for (row, column), label in {(28, 12): 0, (500, 300): 2}.items():
        tint = picture[row, column] - 128
        color = np.array(class_color(label)) - 128
        assert tint @ color > 0.9 * np.linalg.norm(tint) * np.linalg.norm(color)
    assert np.ptp(picture[2, 300]) < 10


def test_a_thing_has_a_white_outline() -> None:
    picture = np.asarray(overlay(grey(600, 700), scene(600, 700), WORDS))
    assert (picture[20, 10] == 255).all()
    assert not (picture[20, 9] == 255).all()


def test_the_legend_grows_with_the_classes_found() -> None:
    vocabulary = builtin_vocabulary("ade20k_150")
    heights = []
    for count in (1, 20, 150):
        panoptic = (torch.arange(600 * 700).reshape(600, 700) % count + 1).int()
        segments = tuple(Segment(i + 1, i, i % 2 == 0, 0.5, 2800) for i in range(count))
        heights.append(overlay(grey(600, 700), Segmentation(panoptic, segments), vocabulary).height)
    assert heights == sorted(heights)
    assert len(set(heights)) == 3


@pytest.mark.parametrize("width", [20, 128, 512, 640, 1280])
@pytest.mark.parametrize("count", [1, 16, 17, 100, 150])
def test_no_name_of_a_legend_is_cut_off(width, count) -> None:
    words = ["W" * 80, *(f"{'a rather long name ' * (i % 3)}number {i}" for i in range(1, count))]
    segments = [Segment(i + 1, i, i % 2 == 0, 0.5, 99) for i in range(count)]
    page = with_legend(Image.new("RGB", (width, 30)), segments, parse_labels(",".join(words)))
    legend = np.asarray(page)[30:]
    for frame in (legend[:, :8], legend[:, -8:], legend[:2], legend[-2:]):
        assert (frame == BACKGROUND).all()
    shown = set(np.unique(legend @ np.array([1, 256, 65536])).tolist())
    colors = np.array([class_color(label) for label in range(count)])
    assert shown.issuperset((colors @ np.array([1, 256, 65536])).tolist())


def test_a_long_name_ends_with_an_ellipsis_within_its_width() -> None:
    assert fitting("couch", 200) == "couch"
    short = fitting("W" * 100, 200)
    assert short.endswith("W…")
    assert 180 < font(FONT_SIZE).getlength(short) <= 200


def test_colours_of_neighbouring_classes_are_far_apart() -> None:
    colors = np.array([class_color(label) for label in range(200)])
    assert np.abs(np.diff(colors, axis=0)).sum(1).min() > 90
    assert len({tuple(color) for color in colors.tolist()}) > 190


def test_things_of_one_class_differ_in_shade() -> None:
    colors = segment_colors([Segment(i, 3, True, 1.0, 1) for i in range(5)])
    assert colors[0].tolist() == list(class_color(3))
    assert len({tuple(color) for color in colors.tolist()}) == 5
    assert colors.min() >= 0
    assert colors.max() <= 255


@pytest.mark.parametrize(
    "segmentation",
    [
        Segmentation(semantic=torch.tensor([[0, 1], [2, 2]])),
        Segmentation(torch.zeros(2, 2, dtype=torch.int32)),
        Segmentation(
            instances=Instances(
                torch.tensor([[[True, False], [False, False]]] * 2),
                torch.tensor([1, 0]),
                torch.tensor([0.9, 0.1]),
            )
        ),
        Segmentation(
            instances=Instances(
                torch.zeros(0, 2, 2, dtype=torch.bool),
                torch.zeros(0, dtype=torch.int64),
                torch.zeros(0),
            )
        ),
    ],
    ids=["semantic", "void", "instances", "no instances"],
)
def test_every_kind_of_result_is_drawn_even_on_two_pixels(segmentation) -> None:
    assert overlay(grey(2, 2), segmentation, WORDS).width == 240  # a legend can be read


def test_only_instances_with_a_good_score_are_drawn() -> None:
    masks = torch.zeros(2, 600, 700, dtype=torch.bool)
    masks[0, :, :300] = masks[1, :, 400:] = True
    found = Instances(masks, torch.tensor([0, 1]), torch.tensor([0.9, 0.1]))
    picture = np.asarray(overlay(grey(600, 700), Segmentation(instances=found), WORDS))
    assert np.ptp(picture[500, 30]) > 30
    assert np.ptp(picture[500, 670]) < 10


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_odd_sizes_are_drawn(size) -> None:
    picture = overlay(grey(*size), Segmentation(torch.zeros(size, dtype=torch.int32)), WORDS)
    assert max(picture.size) <= 1400


def test_long_and_strange_names_are_drawn() -> None:
    vocabulary = parse_labels("x" * 100 + ",日本語,a:thing")
    panoptic = torch.ones(60, 60, dtype=torch.int32)
    panoptic[:30] = 2
    segments = (Segment(1, 0, True, 1.0, 1800), Segment(2, 1, True, 1.0, 1800))
    assert overlay(grey(60, 60), Segmentation(panoptic, segments), vocabulary).width == 480


def test_nothing_to_draw_is_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match="no result"):
        overlay(grey(2, 2), Segmentation(), WORDS)


def test_scores_are_left_out_where_there_are_none_to_tell() -> None:
    """Annotations have no scores: then it does not matter what stands in their place."""
    drawings = []
    for score in (0.8, 0.3):
        segments = tuple(replace(segment, score=score) for segment in scene().segments)
        result = Segmentation(scene().panoptic, segments)
        drawings += [overlay(grey(40, 60), result, WORDS, scores=told) for told in (True, False)]
    told, untold, told_otherwise, untold_again = (drawing.tobytes() for drawing in drawings)
    assert told != told_otherwise
    assert untold == untold_again != told
