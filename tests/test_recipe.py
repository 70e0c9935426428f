from typing import Literal

import pytest

from ovseg_cli.errors import RecipeError
from ovseg_cli.recipe import build, choose, load_recipe, options_for, parse_recipe


def part(*, lr: float, layers: int = 3, mode: Literal["a", "b"] = "a", name: str | None = None):
    return lr, layers, mode, name


def sizes(*, sizes: tuple[int, ...] = (1,), factors: dict[str, float] | None = None):
    return sizes, factors


def test_a_number_that_yaml_reads_as_a_word_is_a_number():
    recipe = parse_recipe("tune_clip:\n  lr: 1e-4\n", name="r")
    assert recipe.section("tune_clip") == {"lr": "1e-4"}
    assert build("tune_clip", recipe.section("tune_clip"), part)[0] == 1e-4


def test_overrides_replace_one_option():
    text = "seed: 1\nproposer:\n  lr: 1\n  layers: 2\n"
    recipe = parse_recipe(text, name="r", overrides=["proposer.lr=0.5", "seed=7"])
    assert recipe.section("proposer") == {"lr": 0.5, "layers": 2}
    assert recipe.seed == 7


def test_a_recipe_survives_being_written():
    recipe = parse_recipe("seed: 3\nproposer:\n  lr: 1e-4\n  sizes: [1, 2]\n", name="r")
    again = parse_recipe(recipe.to_yaml(), name="r")
    assert again == recipe


def test_lists_become_tuples_and_mappings_stay():
    assert build("clip", {"sizes": [1, 2], "factors": {"x": 1}}, sizes) == ((1, 2), {"x": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1, "layer": 2}, r"\[proposer\] layer: 'part' has no such option; did you mean 'la"),
        ({"layers": 2}, r"\[proposer\] lr is missing"),
        ({"lr": "fast"}, r'\[proposer\] lr: expected float, found "fast"'),
        ({"lr": True}, r"\[proposer\] lr: expected float, found true; put it in quotes"),
        ({"lr": 1, "mode": "c"}, r"\[proposer\] mode: expected one of a, b"),
        ({"lr": 1, "name": False}, r"\[proposer\] name: expected str \| None, found false"),
        ({"lr": 1, "layers": 1.5}, r"\[proposer\] layers: expected int, found 1.5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        options_for("proposer", options, part)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip:\n  a: 1\n  a: 2\n", "'a' stands twice in the block at line 2"),
        ("clips:\n  a: 1\n", "there is no section 'clips'; did you mean 'clip'"),
        ("clip: 3\n", "section clip is a mapping of options, found a int"),
        ("- 1\n", "a recipe is a mapping of sections, found a list"),
        ("clip: [1\n", "not a recipe in YAML"),
        ("clip: &x {a: 1}\nproposer: *x\n", "aliases"),
        ("seed: one\n", "seed: expected int"),
        ("", "found nothing"),
    ],
)
def test_bad_recipes_are_refused_in_a_sentence(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, name="recipe.yaml")


@pytest.mark.parametrize("override", ["lr", "=3", "proposer.lr=[1"])
def test_bad_overrides_are_refused(override):
    with pytest.raises(RecipeError, match="--set"):
        parse_recipe("proposer:\n  lr: 1\n", name="r", overrides=[override])


def test_an_unknown_recipe_names_the_known_ones(tmp_path):
    with pytest.raises(RecipeError, match="tiny/masqclip"):
        load_recipe("tiny/masqclp")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / "missing.yaml"))


def test_a_part_is_chosen_by_name():
    target, rest = choose("proposer", {"name": "one", "lr": 1}, {"one": part})
    assert target is part
    assert rest == {"lr": 1}
    with pytest.raises(RecipeError, match="there is no 'two'"):
        choose("proposer", {"name": "two"}, {"one": part})
    with pytest.raises(RecipeError, match="name is missing"):
        choose("proposer", {}, {"one": part})
