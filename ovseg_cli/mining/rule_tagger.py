"""Parts of speech without any data: closed word lists, endings, and the word before.

What runs where NLTK's tagger data are missing. English captions use few kinds of words: function
words can be listed whole, gerunds, participles and adverbs are told by their endings, verbs in the
third person by a list, and what remains is a noun. On COCO's captions, for which the lists were
chosen, this finds as many nouns as the perceptron; elsewhere it takes more verbs and adjectives for
nouns. The manifest says which of the two was used.
"""

import re

from ..vocabulary.singular import word_set
from .nouns import TaggedWord
from .words import ADJECTIVES

TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d+|[^\w\s]")
PREPOSITIONS = word_set(
    """
    of in on at by for with from into onto upon over under above below behind between among
    around through across along against near beside besides next off out about after before
    during without within inside outside toward towards beneath underneath amongst atop via per
    like amid aboard alongside beyond past opposite except plus
    """
)
FUNCTION_WORDS = word_set(
    """
    that such i you he she it we they me him us them mine yours hers theirs himself herself
    itself themselves who whom whose which what where when why how there here and or but nor so
    yet as if while because although though than then since until unless whether to up down is
    are was were be been being am has have had having do does did can could will would may might
    must shall should not n't too very also just only still even ever never always often almost
    quite rather together apart away back ahead alone again already soon once twice now outdoors
    indoors nearby forward backward upside own same more most less least few much enough lots
    else get gets got there's it's what's n't
    """
)
NUMBERS = word_set(
    """
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty
    fifty hundred thousand first second third dozen half double triple single
    """
)
VERBS = word_set(
    """
    sit sits sat stand stands stood lie lies lay lays walk walks run runs ride rides rode hold
    holds held eat eats ate drink drinks drank play plays jump jumps fly flies flew look looks
    watch watches take takes took make makes made put puts set sets go goes went come comes came
    show shows see sees saw swing swings swung hit hits throw throws threw catch catches caught
    kick kicks ski skis skied surf surfs hang hangs hung drive drives drove pull pulls push
    pushes carry carries wear wears wore cut cuts use uses try tries get gets give gives gave
    pose poses smile smiles laugh laughs talk talks speak speaks read reads write writes wrote
    sleep sleeps slept rest rests lean leans wait waits prepare prepares cook cooks bake bakes
    serve serves feature features contain contains include includes display displays fill fills
    cover covers surround surrounds face faces reach reaches climb climbs cross crosses pass
    passes perform performs travel travels graze grazes feed feeds drag drags float floats sail
    sails dock docks land lands leave leaves attempt attempts perch perches roam roams gather
    gathers enjoy enjoys open opens close closes touch touches lick licks chew chews bite bites
    sniff sniffs chase chases cuddle cuddles peer peers peek peeks gaze gazes stare stares shine
    shines appear appears seem seems consist consists fall falls fell grow grows sell sells line
    lines let lets help helps work works begin begins approach approaches stop stops turn turns
    move moves balance balances slide slides glide glides lead leads follow follows bend bends
    stretch stretches skate skates slice slices
    """
)
NOUNS_IN_ING = word_set(
    """
    building ceiling clothing railing wedding painting ring string king wing thing spring
    morning evening drawing icing frosting topping dressing stuffing filling pudding dumpling
    duckling earring awning siding flooring lettering swing sling wiring lighting bedding
    seating covering crossing landing opening opening-day living dining parking cutting ironing
    frying baking swimming shopping fishing sewing rolling rocking washing sleeping mixing icing
    piping carving offering sibling sapling seedling herring viking string-ring sterling
    """
)
NOUNS_IN_ED = word_set(
    """
    bed shed sled seaweed weed reed seed steed hundred flatbed bunkbed
    """
)
NOUNS_IN_LY = word_set(
    """
    butterfly family belly jelly lily doily bully dragonfly fly ally
    """
)
ADJECTIVE_ENDINGS = ("ful", "ous", "able", "ible", "less", "ish", "ive", "ical", "est", "-sized")
NOUNS_LIKE_ADJECTIVES = word_set(
    """
    table vegetable cable dish fish radish jellyfish starfish goldfish forest chest vest nest
    guest crest harvest olive hive archive detective bus cactus timetable mouthful handful
    spoonful armful octopus contest request west rest bible
    """
)
MAKES_A_NOUN = word_set(
    """
    a an the this these those my your his her its our their some no any each every either neither
    both all another other others
    """
)


class RuleTagger:
    """Penn Treebank tags by rule: NN, NNS and, for everything else, a rough tag of its kind."""

    name = "rules"

    def tag(self, sentence: str) -> list[TaggedWord]:
        """The words of a sentence in lower case, tagged.

        Args:
            sentence: a caption.
        """
        tagged: list[TaggedWord] = []
        for match in TOKEN.finditer(sentence.lower()):
            word, ending = _split_possessive(match.group().replace("\u2019", "'"))
            tagged.append((word, _tag(word, tagged)))
            if ending:
                tagged.append((ending, "POS"))
        return tagged


def _split_possessive(word: str) -> tuple[str, str]:
    return (word[:-2], "'s") if word.endswith("'s") and len(word) > 3 else (word, "")


def _tag(word: str, before: list[TaggedWord]) -> str:
    if not word[0].isalpha():
        return "CD" if word[0].isdigit() else "."
    if word in MAKES_A_NOUN:
        return "DT"
    if word in PREPOSITIONS:
        return "IN"
    if word in FUNCTION_WORDS:
        return "CC"
    if word in NUMBERS:
        return "CD"
    if word in VERBS and not _announces_a_noun(before):
        return "VBZ"
    if word in ADJECTIVES or word == "orange":
        return "JJ"
    return _tag_by_ending(word)


def _announces_a_noun(before: list[TaggedWord]) -> bool:
    """Whether nothing stands before, or a word after which verbs do not come: "on skis"."""
    return not before or before[-1][1] in ("DT", "JJ", "CD", "POS", "IN")


def _tag_by_ending(word: str) -> str:
    if word.endswith("ing") and word not in NOUNS_IN_ING:
        return "VBG"
    if word.endswith("ed") and word not in NOUNS_IN_ED:
        return "VBN"
    if word.endswith("ly") and word not in NOUNS_IN_LY:
        return "RB"
    if word.endswith(ADJECTIVE_ENDINGS) and word not in NOUNS_LIKE_ADJECTIVES:
        return "JJ"
    return "NNS" if word.endswith("s") and not word.endswith("ss") else "NN"
