"""Which classes a training had masks of, decided by words.

FC-CLIP (Yu et al., NeurIPS 2023), as released: a class is seen where any of its synonyms is, letter
by letter, any synonym of any class of the training.
"""

from dataclasses import replace

from ..structures import Vocabulary


def seen_classes(vocabulary: Vocabulary, training: Vocabulary) -> tuple[bool, ...]:
    """For each class True where one of its words is a word of the training.

    Args:
        vocabulary: the classes in question.
        training: the classes of the training; where it says which of its own are seen, those.
    """
    seen = training.seen or (True,) * len(training)
    words = {
        word
        for synonyms, is_seen in zip(training.synonyms, seen, strict=True)
        if is_seen
        for word in synonyms
    }
    return tuple(not words.isdisjoint(synonyms) for synonyms in vocabulary.synonyms)


def with_seen(vocabulary: Vocabulary, training: Vocabulary) -> Vocabulary:
    """The vocabulary with `seen_classes`, unless it says itself which classes are seen.

    Args:
        vocabulary: the classes in question.
        training: the classes of the training.
    """
    if vocabulary.seen:
        return vocabulary
    return replace(vocabulary, seen=seen_classes(vocabulary, training))
