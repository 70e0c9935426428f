import re

import pytest

from ovseg_cli.errors import RecipeError
from ovseg_cli.recipe import load_recipe, parse_recipe, recipes_folder, shipped_recipes
from ovseg_cli.stages.recipe_check import check_recipe
from ovseg_cli.stages.session import class_list


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_fits_the_signatures(name):
    check_recipe(load_recipe(name))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_comes_with_its_chain(name):
    assert (recipes_folder() / f"{name}.sh").is_file()


@pytest.mark.parametrize("system", ["masqclip", "maskclip", "ovseg"])
def test_the_tiny_recipe_differs_from_the_papers_in_numbers_only(system):
    tiny, paper = load_recipe(f"tiny/{system}"), load_recipe(system)
    for section in ("proposer", "mask_encoder", "classification"):
        assert tiny.section(section).get("name") == paper.section(section).get("name")


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_chain_scores_every_target(name):
    chain = (recipes_folder() / f"{name}.sh").read_text()
    targets = set(load_recipe(name).section("targets"))
    assert targets <= set(re.split(r"[\s;]+", chain))


@pytest.mark.parametrize("name", ["masqclip_base_novel", "maskclip_base_novel"])
def test_base_and_novel_classes_are_cocos_48_and_17(name):
    dataset = load_recipe(name).section("dataset")
    assert dataset["annotations"] == "instances"
    assert class_list(dataset["classes"]).vocabulary.seen.count(True) == 48
    assert len(class_list(dataset["classes"]).ids) == 65


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune_clip: {stepps: 3}", r"\[tune_clip\] stepps: .* did you mean 'steps'"),
        ("proposer: {name: mask2forme}", "did you mean 'mask2former'"),
        ("clip: {name: small, wide: 3}", r"\[clip\] wide"),
        ("mask_encoder: {name: mask_class_tokens, variant: x}", "expected one of freeze, q, k"),
        ("framing: {size_divisor: 0}", r"\[framing\] size_divisor"),
        ("inference: {top_k: -1}", r"\[inference\] top_k"),
        ("dataset: {train: x}", r"\[dataset\] root is missing"),
        ("train_clip: {phases: [{split: a}]}", r"\[train_clip\] phases"),
        ("evaluate: {sweep: {weight: [[0, 1]]}}", r"\[evaluate.sweep\] weight: .* 'weights'"),
        ("tune_clip: {steps: 0}", r"\[tune_clip\] steps: 0 is not greater than 0"),
        ("tune_clip: {milestone: 1.5}", "milestone: 1.5 is not less than or equal to 1"),
        ("train_proposals: {lr: -1.0}", r"lr: -1.0 is not greater than or equal to 0"),
        ("train_proposals: {lr: .nan}", "lr: NaN is not greater"),
        ("train_proposals: {steps: many}", 'steps: expected int, found "many"'),
        ("proposer: {name: mask2former, heads: 0}", r"\[proposer\] heads: 0 is not"),
        ("proposer: {name: [mask2former]}", r"\[proposer\] name: there is no"),
        ("clip: {name: small, layers: -3}", r"\[clip\] layers: -3 is not"),
        ("evaluate: {images: x}", r"images: expected int \| None"),
        ("evaluate: {protocol: novel}", "protocol: expected one of generalized, constrained_base"),
        ("targets: {ade: {rot: x}}", r"\[targets\.ade\] rot: .* did you mean 'root'"),
        ("seed: -1", "seed: -1 is not"),
    ],
)
def test_a_wrong_option_of_any_section_is_found_at_once(text, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe(parse_recipe(text, name="r"))
