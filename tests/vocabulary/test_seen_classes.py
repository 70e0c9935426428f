"""Seen and unseen classes, decided by words."""

from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary.labels import parse_labels
from ovseg_cli.vocabulary.seen_classes import seen_classes, with_seen


def test_one_common_synonym_makes_a_class_seen() -> None:
    vocabulary = parse_labels("settee/sofa,dog,puppy/dogs,cat")
    training = parse_labels("couch/sofa,dog/puppy")
    assert seen_classes(vocabulary, training) == (True, True, True, False)


def test_words_are_compared_letter_by_letter() -> None:
    training = parse_labels("traffic light,Dog")
    assert not any(seen_classes(parse_labels("light,dog,traffic lights"), training))


def test_of_a_training_list_with_unseen_classes_only_the_seen_ones_count() -> None:
    names = ("cat", "dog")
    training = Vocabulary(names, (("cat",), ("dog",)), (True, True), (True, False))
    assert seen_classes(parse_labels("dog,cat"), training) == (False, True)


def test_a_vocabulary_that_knows_itself_is_left_alone() -> None:
    known = Vocabulary(("cat",), (("cat",),), (True,), (False,))
    assert with_seen(known, parse_labels("cat")) is known
    found = with_seen(parse_labels("cat,elk"), parse_labels("cat"))
    assert found.seen == (True, False)
    assert found.names == ("cat", "elk")
