import pytest

from ovseg_cli.datasets.shapes.classes import classes
from ovseg_cli.errors import VocabularyError
from ovseg_cli.vocabulary import (
    builtin_ids,
    builtin_names,
    builtin_title,
    builtin_vocabulary,
    category_ids,
    parse_labels,
)

SIZES = {  # classes, things, seen classes (0: the dataset has no such split)
    "ade20k_150": (150, 100, 0),
    "ade20k_847": (847, None, 0),
    "cityscapes_19": (19, 8, 0),
    "coco_48_17": (65, 65, 48),
    "coco_80": (80, 80, 0),
    "coco_panoptic_133": (133, 80, 0),
    "coco_stuff_156_15": (171, 80, 156),
    "coco_stuff_171": (171, 80, 0),
    "lvis_1203": (1203, 1203, 866),
    "mapillary_65": (65, 37, 0),
    "pascal_context_59": (59, None, 0),
    "pascal_context_459": (459, None, 0),
    "pascal_voc_15_5": (20, 20, 15),
    "pascal_voc_20": (20, 20, 0),
    "pascal_voc_21": (21, 20, 0),
    "shapes": (28, 20, 20),
}


@pytest.mark.parametrize("name", builtin_names())
def test_every_list_is_whole(name) -> None:
    vocabulary = builtin_vocabulary(name)
    assert len(set(vocabulary.names)) == len(vocabulary)
    assert len(set(builtin_ids(name))) == len(vocabulary)
    assert vocabulary.names == tuple(words[0] for words in vocabulary.synonyms)
    assert all(len(set(words)) == len(words) for words in vocabulary.synonyms)
    assert all(word == word.strip() and word for words in vocabulary.synonyms for word in words)
    assert builtin_title(name)
    assert parse_labels(name) == vocabulary


@pytest.mark.parametrize("name", sorted(SIZES))
def test_lists_have_the_published_sizes(name) -> None:
    classes, things, seen = SIZES[name]
    vocabulary = builtin_vocabulary(name)
    assert len(vocabulary) == classes
    assert things is None or sum(vocabulary.is_thing) == things
    assert sum(vocabulary.seen) == seen


def test_the_synthetic_sets_list_is_the_generators() -> None:
    vocabulary = builtin_vocabulary("shapes")
    expected = [(c.id, c.name, c.is_thing, c.seen) for c in classes()]
    rows = zip(
        builtin_ids("shapes"), vocabulary.names, vocabulary.is_thing, vocabulary.seen, strict=True
    )
    assert list(rows) == expected


def test_words_of_the_synthetic_set_are_things_or_stuff_without_a_mark() -> None:
    vocabulary = builtin_vocabulary("shapes")
    assert parse_labels(",".join(vocabulary.names)).is_thing == vocabulary.is_thing


def test_cocos_stuff_has_masqclips_words() -> None:
    vocabulary = builtin_vocabulary("coco_panoptic_133")
    ids = builtin_ids("coco_panoptic_133")
    assert set(vocabulary.synonyms[ids.index(184)]) == {"branch", "tree", "bush", "leaves"}
    assert vocabulary.synonyms[ids.index(171)] == ("brick wall",)
    assert sum(len(words) for words in vocabulary.synonyms) == 159


def test_ade20ks_names_are_split_at_commas() -> None:
    synonyms = builtin_vocabulary("ade20k_150").synonyms
    assert sum(len(words) > 1 for words in synonyms) == 41
    assert sum(len(words) > 1 for words in builtin_vocabulary("ade20k_847").synonyms) == 217


def test_the_unseen_classes_of_the_zero_shot_splits_are_the_published_ones() -> None:
    """COCO-Stuff by the values of its label maps, which count from 0."""

    def unseen(name: str) -> dict[int, str]:
        vocabulary = builtin_vocabulary(name)
        rows = zip(builtin_ids(name), vocabulary.names, vocabulary.seen, strict=True)
        return {i: word for i, word, seen in rows if not seen}

    stuff = unseen("coco_stuff_156_15")
    values = [20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171]
    assert list(stuff) == [value + 1 for value in values]
    assert " ".join(stuff.values()) == (
        "cow giraffe suitcase frisbee skateboard carrot scissors cardboard clouds grass "
        "playingfield river road tree wall-concrete"
    )
    assert unseen("pascal_voc_15_5") == {
        16: "pottedplant", 17: "sheep", 18: "sofa", 19: "train", 20: "tvmonitor"
    }  # fmt: skip


def test_the_background_of_pascal_voc_has_no_word_of_its_things() -> None:
    whole, things = builtin_vocabulary("pascal_voc_21"), builtin_vocabulary("pascal_voc_20")
    assert builtin_ids("pascal_voc_21") == (0, *builtin_ids("pascal_voc_20"))
    assert whole.names == ("background", *things.names)
    assert not set(whole.synonyms[0]) & set(things.names)


@pytest.mark.parametrize(
    ("split", "whole"),
    [("coco_stuff_156_15", "coco_stuff_171"), ("pascal_voc_15_5", "pascal_voc_20")],
)
def test_a_split_has_the_classes_of_the_whole_list(split: str, whole: str) -> None:
    assert builtin_ids(split) == builtin_ids(whole)
    assert builtin_vocabulary(split).is_thing == builtin_vocabulary(whole).is_thing


def test_category_ids_are_the_lists_own_or_count_from_one() -> None:
    assert category_ids(parse_labels("coco_48_17"))[:5] == (1, 2, 3, 4, 5)
    assert category_ids(parse_labels("coco_48_17"))[-1] == 90
    assert category_ids(parse_labels("beer,wine")) == (1, 2)


def test_an_unknown_list_is_refused_with_the_known_ones() -> None:
    with pytest.raises(VocabularyError, match="no built-in vocabulary 'coco'; there are ade20k"):
        builtin_vocabulary("coco")
