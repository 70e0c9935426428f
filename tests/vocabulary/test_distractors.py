"""Words that nobody asked for, and which of them are left out."""

import pytest

from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary import builtin_names, builtin_vocabulary, parse_labels
from ovseg_cli.vocabulary.distractors import with_distractors


def left_out(labels: str) -> set[str]:
    """The classes of the list that are not there beside these words."""
    everything = with_distractors(parse_labels("qwertyuiop"))
    words = parse_labels(labels)
    return set(everything.names[1:]) - set(with_distractors(words).names[len(words) :])


@pytest.mark.parametrize(("labels", "names"), [
    ("dog", {"dog"}),
    ("Dogs", {"dog"}),
    ("puppy", {"dog"}),
    ("hot dog", {"dog"}),
    ("wine glass", {"glass", "glasses"}),
    ("parking  lot", {"parking lot"}),
    ("thing/sandwiches", {"sandwich"}),
    ("my dog's kennel", set()),
    ("puppies,buses,knives,shelves,mice", {"dog", "bus", "knife", "shelf", "mouse"}),
    ("snowmen,women,ski,stair", {"person", "skis", "stairs"}),
    ("dogma,carpetbagger,grassland", set()),
])  # fmt: skip
def test_what_is_akin_to_a_word_asked_for_is_left_out(labels: str, names: set[str]) -> None:
    assert left_out(labels) == names


def test_the_words_asked_for_come_first_and_unchanged() -> None:
    words = parse_labels("beer,couch/sofa,sky:thing")
    every = with_distractors(words)
    assert every.names[:3] == words.names
    assert every.synonyms[:3] == words.synonyms
    assert every.is_thing[:3] == words.is_thing
    assert every.seen == ()
    assert len(every) > 150
    assert not {"sofa", "sky"} & {word for synonyms in every.synonyms[3:] for word in synonyms}


@pytest.mark.parametrize("name", builtin_names())
def test_all_names_differ_beside_any_built_in_vocabulary(name: str) -> None:
    vocabulary = builtin_vocabulary(name)
    every = with_distractors(vocabulary)
    assert len(every) > len(vocabulary)
    assert len(set(every.names[len(vocabulary) :]) - set(vocabulary.names)) == len(every) - len(
        vocabulary
    )


def test_other_words_are_seen_as_the_training_says_and_else_not() -> None:
    words = Vocabulary(("beer", "wine"), (("beer",), ("wine",)), (True, True), (True, False))
    training = parse_labels("kitten,tree")
    for known, seen in ((None, set()), (training, {"cat", "tree"})):
        every = with_distractors(words, known)
        assert every.seen[:2] == (True, False)
        assert {n for n, s in zip(every.names[2:], every.seen[2:], strict=True) if s} == seen
