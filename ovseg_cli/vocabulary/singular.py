"""The singular of English nouns, by rule and a list of exceptions."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text, which stand between spaces."""
    return frozenset(text.split())


IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "buses": "bus",
    "busses": "bus",
    "lenses": "lens",
    "gases": "gas",
    "canvases": "canvas",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "wolves": "wolf",
    "leaves": "leaf",
    "loaves": "loaf",
    "shelves": "shelf",
    "bookshelves": "bookshelf",
    "scarves": "scarf",
    "halves": "half",
    "calves": "calf",
    "hooves": "hoof",
    "thieves": "thief",
    "headaches": "headache",
    "axes": "axe",
    "quizzes": "quiz",
}
SAME = word_set(
    """
    bus gas lens glass grass dress chess cross mess pass boss brass canvas christmas tennis
    cactus octopus series species clothes glasses sunglasses eyeglasses scissors pants jeans
    shorts trousers tights goggles binoculars pajamas tongs pliers stairs downstairs upstairs
    news physics athletics swiss sheep fish deer moose aircraft debris chassis tennis bus atlas
    pancreas hummus platypus walrus virus
    """
)
ENDS_IN_IE = word_set(
    """
    ties pies cookies movies zombies selfies hoodies birdies brownies smoothies veggies doggies
    kiddies calories genies prairies rookies bowties neckties magpies newbies
    """
)
ENDS_IN_OE = word_set(
    """
    shoes toes canoes horseshoes snowshoes oboes hoes foes woes does
    """
)


def singular(noun: str) -> str:
    """A noun, or a compound by its last word, in the singular.

    Args:
        noun: in lower case.
    """
    before, space, word = noun.rpartition(" ")
    return before + space + _singular_word(word)


def _singular_word(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("men") and len(word) > 5:  # firemen, snowmen
        return word[:-3] + "man"
    if word in SAME or not word.endswith("s") or word.endswith(("ss", "us", "is")) or len(word) < 4:
        return word
    if word.endswith("ies") and word not in ENDS_IN_IE and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    if word.endswith("oes") and word not in ENDS_IN_OE:
        return word[:-2]
    return word[:-1]
