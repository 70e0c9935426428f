"""The synthetic set: its promises about what is in the images, and its files."""

import numpy as np
import pytest

from ovseg_cli.datasets.shapes.classes import (
    BASE_THINGS,
    COLORS,
    NOVEL_THINGS,
    classes,
    held_out_compositions,
    is_held_out,
)
from ovseg_cli.datasets.shapes.close_up import STILL_SEEN, close_up
from ovseg_cli.datasets.shapes.scene import MIN_VISIBLE, Layout, _stamp, draw_scene
from ovseg_cli.datasets.shapes.sentences import CAPTIONS, captions
from ovseg_cli.datasets.shapes.splits import SPLITS
from ovseg_cli.datasets.shapes.stuff import PALETTES, stuff_texture
from ovseg_cli.datasets.shapes.things import DRAWINGS

LAYOUTS = {split.name: split.layout for split in SPLITS}
THINGS = BASE_THINGS + NOVEL_THINGS


def scenes(name, count, *, allow_held_out=True):
    for index in range(count):
        rng = np.random.default_rng([7, index])
        yield draw_scene(rng, LAYOUTS[name], allow_held_out=allow_held_out)


def unit_grid(points=64):
    axis = np.linspace(-1.2, 1.2, points, dtype=np.float32)
    return axis[None, :].repeat(points, 0), axis[:, None].repeat(points, 1)


def test_the_world_has_twenty_things_six_of_them_novel_and_eight_stuffs_two_of_them_novel():
    counts = {
        (thing, seen): sum(c.is_thing == thing and c.seen == seen for c in classes())
        for thing in (True, False)
        for seen in (True, False)
    }
    assert counts == {(True, True): 14, (True, False): 6, (False, True): 6, (False, False): 2}
    assert [c.id for c in classes()] == list(range(1, 29))
    assert set(DRAWINGS) == set(THINGS)


def test_about_one_in_eleven_compositions_is_held_out_and_every_class_keeps_most_colors():
    held_out = held_out_compositions()
    assert len(held_out) == pytest.approx(len(THINGS) * len(COLORS) / 11, abs=2)
    for thing in THINGS:
        assert sum(is_held_out(color, thing) for color in COLORS) <= 2


@pytest.mark.parametrize("name", THINGS)
def test_a_drawing_fills_a_part_of_the_unit_disc_and_stays_inside_its_stamp(name):
    x, y = unit_grid()
    for phase in (0.1, 0.6, 0.9):
        body, _ = DRAWINGS[name](x, y, phase)
        assert 0.1 < body.mean() < 0.8
        assert not body[np.hypot(x, y) > 1.25].any()


def test_any_two_things_differ_in_a_good_part_of_outline_or_marks():
    x, y = unit_grid()
    drawn = {name: [DRAWINGS[name](x, y, p) for p in (0.1, 0.3, 0.6, 0.9)] for name in THINGS}
    for i, first in enumerate(THINGS):
        for second in THINGS[i + 1 :]:
            for body, mark in drawn[first]:
                for other_body, other_mark in drawn[second]:
                    differs = (body != other_body) | (body & (mark != other_mark))
                    assert differs.sum() / (body | other_body).sum() > 0.07, (first, second)


def test_some_classes_share_an_outline_so_that_only_their_inside_tells_them_apart():
    x, y = unit_grid()
    for group in (("ball", "wheel", "target", "clock"), ("dice", "window", "crate")):
        outlines = [DRAWINGS[name](x, y, 0.3)[0] for name in group]
        assert all((outline == outlines[0]).all() for outline in outlines)


@pytest.mark.parametrize("name", PALETTES)
def test_stuff_is_a_picture_with_texture(name):
    texture = stuff_texture(name, np.random.default_rng(0), 48)
    assert texture.shape == (48, 48, 3)
    assert texture.min() >= 0
    assert texture.max() <= 255
    assert texture.mean(axis=2).std() > 4


def test_scenes_have_two_to_six_things_and_masks_that_do_not_overlap():
    for scene in scenes("train", 40):
        assert 2 <= len(scene.things) <= 6
        assert 1 <= len(scene.stuff) <= 2
        covered = sum(region.mask.astype(int) for region in (*scene.things, *scene.stuff))
        assert covered.max() == 1
        assert covered.mean() > 0.98


def test_every_thing_keeps_two_fifths_of_its_area_visible():
    whole = {}
    for name in THINGS:  # the least area a thing of this radius has, over tilts and phases
        x, y = unit_grid(96)
        pixel = (x[0, 1] - x[0, 0]) ** 2
        areas = [DRAWINGS[name](x, y, p)[0].sum() * pixel for p in (0.1, 0.4, 0.6, 0.9)]
        whole[name] = min(areas)
    smallest_radius = LAYOUTS["train"].radius[0]
    for scene in scenes("train", 60):
        for thing in scene.things:
            least = MIN_VISIBLE * whole[thing.name] * smallest_radius**2
            assert thing.mask.sum() > 0.8 * least


def test_training_scenes_show_no_held_out_composition():
    shown = [
        thing for scene in scenes("train", 150, allow_held_out=False) for thing in scene.things
    ]
    assert len(shown) > 300
    assert not any(is_held_out(thing.color, thing.name) for thing in shown)


def test_scenes_of_other_splits_do_show_held_out_compositions():
    shown = [thing for scene in scenes("test", 150) for thing in scene.things]
    share = np.mean([is_held_out(thing.color, thing.name) for thing in shown])
    assert share == pytest.approx(1 / 11, abs=0.05)


def test_a_stamp_is_drawn_in_its_color():
    rng = np.random.default_rng(3)
    stamp = _stamp(rng, 20.0, True)
    assert stamp.alpha.shape == stamp.paint.shape[:2]
    assert 0 <= stamp.alpha.min() <= stamp.alpha.max() == 1


def test_captions_name_only_what_is_there_and_drop_attributes_at_random():
    with_color = without_color = 0
    words = {c.name for c in classes()}
    for index, scene in enumerate(scenes("train", 40)):
        sentences = captions(np.random.default_rng(index), scene)
        assert len(sentences) == CAPTIONS
        there = {region.name for region in (*scene.things, *scene.stuff)}
        for sentence in sentences:
            said = sentence.replace(",", "").split()
            assert words & set(said) <= there
            named = sum(word in THINGS for word in said)
            colored = sum(word in COLORS for word in said)
            with_color, without_color = with_color + colored, without_color + named - colored
    assert with_color > 60
    assert without_color > 100


def test_relations_in_captions_are_true():
    checked = 0
    for index, scene in enumerate(scenes("train", 60)):
        center = {thing.name: thing.center for thing in scene.things}
        if len(center) < len(scene.things):
            continue
        for sentence in captions(np.random.default_rng(index), scene):
            for phrase, axis, sign in (
                (" left of ", 0, -1),
                (" right of ", 0, 1),
                (" above ", 1, -1),
                (" below ", 1, 1),
            ):
                if phrase in sentence:
                    first, second = (part.split(" on ")[0] for part in sentence.split(phrase))
                    first, second = first.split()[-1], second.split()[-1]
                    assert sign * (center[first][axis] - center[second][axis]) >= 0
                    checked += 1
    assert checked > 20


def test_a_bare_layout_has_stuff_alone():
    layout = Layout(size=40, things=(1, 1), bare=1.0)
    scene = draw_scene(np.random.default_rng(0), layout, allow_held_out=True)
    assert not scene.things
    assert scene.stuff
    assert captions(np.random.default_rng(0), scene)[0] == scene.stuff[0].name


def test_a_close_up_is_of_one_thing_and_names_what_is_still_to_be_seen():
    for index, scene in enumerate(scenes("train", 40)):
        near = close_up(np.random.default_rng(index), scene, 40)
        assert near.image.shape == (40, 40, 3)
        assert 1 <= len(near.things) <= len(scene.things)
        whole = {(t.name, t.color, t.center): t.mask.sum() for t in scene.things}
        shares = [
            thing.mask.sum() / area
            for thing in near.things
            for (name, color, _), area in whole.items()
            if (name, color) == (thing.name, thing.color)
        ]
        assert max(shares) > 0.8  # the one in the middle
        assert all(thing.size == "" for thing in near.things)
    assert 0.5 <= STILL_SEEN <= 1


def test_a_close_up_of_bare_stuff_shows_stuff():
    layout = Layout(size=72, things=(1, 1), bare=1.0)
    scene = draw_scene(np.random.default_rng(0), layout, allow_held_out=True)
    near = close_up(np.random.default_rng(1), scene, 40)
    assert near.image.shape == (40, 40, 3)
    assert [region.name for region in near.stuff] == [scene.stuff[0].name]
