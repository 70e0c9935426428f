import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.mining.nouns import MAX_LETTERS, NounOptions, nouns_of
from ovseg_cli.mining.rule_tagger import RuleTagger
from ovseg_cli.vocabulary.singular import IRREGULAR, singular


def tagged(text):
    return [tuple(word.split("/")) for word in text.split()]


@pytest.mark.parametrize(
    ("words", "nouns"),
    [
        ("a/DT wine/NN glass/NN", ["wine glass"]),
        ("dog/NN and/CC dog/NN", ["dog"]),
        ("small/NN red/NN ball/NN", ["ball"]),  # a tagger that takes colours for nouns
        ("red/NN", []),
        ("front/NN of/IN house/NN", ["house"]),
        ("street/NN corner/NN", ["street"]),
        ("group/NN photo/NN", []),
        ("stop/VB sign/NN", ["stop sign"]),
        ("hot/JJ dogs/NNS", ["hot dogs"]),
        ("hot/JJ soup/NN", ["soup"]),
        ("living/VBG room/NN", ["living room"]),
        ("dog/NN sits/NNS", ["dog"]),
        ("man/NN 's/POS hat/NN", ["man", "hat"]),
        ("a/NN 12/NN n/NN", []),  # one letter is no word, nor are digits
        ("t-shirt/NN", ["t-shirt"]),
        ("brick/NN bank/NN building/NN wall/NN", ["bank building wall"]),
    ],
)
def test_runs_of_nouns(words, nouns):
    assert list(nouns_of(tagged(words), NounOptions())) == nouns


def test_without_compounds_every_word_is_a_noun():
    options = NounOptions(compounds=False)
    assert nouns_of(tagged("wine/NN glass/NN"), options) == ("wine", "glass")


def test_plurals_are_folded_after_the_noun_is_found():
    words = tagged("wine/NN glasses/NNS and/CC a/DT dog/NN with/IN dogs/NNS")
    assert nouns_of(words, NounOptions(fold_plurals=True)) == ("wine glasses", "dog")


def test_own_stop_words_are_left_out_in_the_plural_too():
    words = tagged("trees/NNS and/CC sky/NN")
    assert nouns_of(words, NounOptions(stop_words=("Tree",))) == ("sky",)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"), ("buses", "bus"), ("boxes", "box"), ("beaches", "beach"),
        ("dresses", "dress"), ("horses", "horse"), ("houses", "house"), ("knives", "knife"),
        ("gloves", "glove"), ("babies", "baby"), ("cookies", "cookie"), ("tomatoes", "tomato"),
        ("shoes", "shoe"), ("firemen", "fireman"), ("people", "person"), ("scissors", "scissors"),
        ("grass", "grass"), ("tennis", "tennis"), ("dog", "dog"), ("tennis rackets",
        "tennis racket"), ("", ""),
    ],
)  # fmt: skip
def test_singulars(plural, one):
    assert singular(plural) == one


def test_a_singular_has_no_other_singular():
    assert all(singular(one) == one for one in IRREGULAR.values())


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=string.ascii_letters + " '-.,é日\n0", max_size=60))
def test_nouns_of_any_text_are_short_words_of_it_each_once(text):
    nouns = nouns_of(RuleTagger().tag(text), NounOptions())
    assert len(set(nouns)) == len(nouns)
    for noun in nouns:
        assert 2 <= len(noun) <= MAX_LETTERS
        assert all(word in text.lower() for word in noun.split())
