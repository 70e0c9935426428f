"""FC-CLIP's class-name files, and the counts that its lists have."""

import os
from pathlib import Path

import pytest

from ovseg_cli.errors import VocabularyError
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary import builtin_vocabulary
from ovseg_cli.vocabulary.class_name_files import class_names, is_class_name_file
from ovseg_cli.vocabulary.labels import parse_labels
from ovseg_cli.vocabulary.seen_classes import seen_classes

SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()
LISTS = SAMPLES / "vocabularies" / "fcclip_prompt_eng"


def names_of(path: Path) -> list[tuple[str, ...]]:
    return [names for _, names in class_names(path)]


def test_names_come_in_the_order_of_lines_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("0:invalid_class_id\n7:Wall, walls,wall/panel\n3:bag,bag\n5:a: b,walls\n")
    assert is_class_name_file(file)
    expected = (("Wall", "walls", "wall/panel"), ("bag", "bag"), ("a: b", "walls"))
    assert names_of(file) == list(expected)
    assert parse_labels(f"@{file}").synonyms == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0:wall\n0:sky\n", r"line 2: the number 0 is there already \(.*line 1\)"),
        ("0:wall\nsky\n", "line 2: 'number:name,synonym' is expected"),
        ("0:wall\n\n1:sky,,blue\n", "line 3: the label is empty"),
        ("0:wall\n1:\n", "line 2: the label is empty"),
        ("0:invalid_class_id\n", "no labels"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "names.txt"
    file.write_text(content)
    with pytest.raises(VocabularyError, match=f"names.txt.*{message}"):
        parse_labels(f"@{file}")


def published(name: str) -> Vocabulary:
    file = LISTS / f"{name}_with_prompt_eng.txt"
    if not file.is_file():
        pytest.skip(f"no file {file}; set OVSEG_SAMPLES")
    return parse_labels(f"@{file}")


@pytest.mark.parametrize(
    ("name", "classes", "names", "most", "seen"),
    [
        ("coco_panoptic", 133, 254, 17, 133),
        ("ade20k_150", 150, 403, 12, 64),
        ("ade20k_847", 847, 1342, 12, 101),
        ("cityscapes", 19, 60, 10, 17),
        ("mapillary_vistas", 65, 153, 17, 26),
        ("pascal_voc_21", 21, 153, 74, 21),
        ("pascal_ctx_59", 59, 160, 16, 51),
        ("pascal_ctx_459", 459, 559, 16, 85),
        ("coco_stuff", 171, 328, 16, 135),
    ],
)
def test_the_published_lists_have_the_published_counts(
    name: str, classes: int, names: int, most: int, seen: int
) -> None:
    vocabulary, training = published(name), published("coco_panoptic")
    counts = [len(synonyms) for synonyms in vocabulary.synonyms]
    assert (len(vocabulary), sum(counts), max(counts)) == (classes, names, most)
    assert sum(seen_classes(vocabulary, training)) == seen


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("coco_panoptic", "coco_panoptic_133"),
        ("coco_stuff", "coco_stuff_171"),
        ("ade20k_150", "ade20k_150"),
        ("ade20k_847", "ade20k_847"),
        ("cityscapes", "cityscapes_19"),
        ("mapillary_vistas", "mapillary_65"),
        ("pascal_voc_21", "pascal_voc_21"),
        ("pascal_ctx_59", "pascal_context_59"),
        ("pascal_ctx_459", "pascal_context_459"),
    ],
)
def test_a_targets_classes_can_have_the_published_words(name: str, builtin: str) -> None:
    """As many classes in the same order: those with the same first word stand at the same place."""
    words, own = published(name).synonyms, builtin_vocabulary(builtin).synonyms
    assert len(words) == len(own)
    places = {entry: place for place, (entry, *_) in enumerate(own)}
    same = [(place, places[w[0]]) for place, w in enumerate(words) if w[0] in places]
    assert len(same) > len(own) / 3
    assert sum(a == b for a, b in same) / len(same) > 0.9


def test_pascal_voc_20_is_the_list_of_21_without_its_background() -> None:
    vocabulary = published("pascal_voc_21")
    flags = seen_classes(vocabulary, published("coco_panoptic"))
    assert vocabulary.names[0] == "background"
    assert sum(len(synonyms) for synonyms in vocabulary.synonyms[1:]) == 79
    assert flags[1:] == (True,) * 20


def test_the_unseen_classes_of_two_lists_are_the_published_ones() -> None:
    training = published("coco_panoptic")

    def unseen(name: str) -> set[str]:
        vocabulary = published(name)
        flags = seen_classes(vocabulary, training)
        return {n for n, seen in zip(vocabulary.names, flags, strict=True) if not seen}

    assert unseen("cityscapes") == {"pole", "rider"}
    assert unseen("pascal_ctx_59") == {
        "bag", "bedclothes", "computer case", "ground", "street", "sidewalk", "sign", "wood piece",
    }  # fmt: skip
