"""Which tagger reads the captions: NLTK's perceptron, or rules where its data are missing."""

from functools import cached_property
from typing import Any, Literal

from ovseg_cli.errors import InputError

from .nouns import TaggedWord, Tagger
from .rule_tagger import RuleTagger
from .tagger_data import TaggerData, read_tagger_data, tagger_folder

TaggerChoice = Literal["auto", "perceptron", "rules"]
FALLBACK_NOTICE = (
    "NLTK's tagger data are not here, so nouns are found by rules, which were made for captions "
    "such as COCO's; get the data with 'ovseg models pull nltk', or set NLTK_DATA"
)


class PerceptronTagger:
    """NLTK's Treebank tokens and averaged perceptron (Bird et al., nltk.org)."""

    def __init__(self, data: TaggerData) -> None:
        """Takes data that are read already.

        Args:
            data: from `read_tagger_data`.
        """
        self.name = f"perceptron {data.digest}"
        self._data = data

    def tag(self, sentence: str) -> list[TaggedWord]:
        """The words of a sentence in lower case, tagged; capitals make no names of them.

        Args:
            sentence: a caption.
        """
        tokens = self._tokenizer.tokenize(sentence.lower().replace("\u2019", "'"))
        tagged: list[TaggedWord] = self._tagger.tag(tokens) if tokens else []
        return tagged

    @cached_property
    def _tokenizer(self) -> Any:
        from nltk.tokenize import NLTKWordTokenizer

        return NLTKWordTokenizer()

    @cached_property
    def _tagger(self) -> Any:
        from nltk.tag.perceptron import PerceptronTagger as NltkTagger

        tagger = NltkTagger(load=False)
        tagger.model.weights = self._data.weights
        tagger.tagdict = self._data.tagdict
        tagger.classes = tagger.model.classes = set(self._data.classes)
        return tagger


def chosen_tagger(choice: TaggerChoice = "auto") -> Tagger:
    """The tagger that a recipe asks for; `auto` takes the perceptron where its data are.

    Args:
        choice: of the recipe.

    Raises:
        InputError: the perceptron is asked for and its data are missing, or are damaged.
    """
    folder = None if choice == "rules" else tagger_folder()
    if folder is not None:
        return PerceptronTagger(read_tagger_data(folder))
    if choice == "perceptron":
        raise InputError(
            "[mine_captions] tagger: perceptron needs NLTK's data averaged_perceptron_tagger_eng; "
            "get them with 'ovseg models pull nltk', or set NLTK_DATA"
        )
    return RuleTagger()
