import contextlib
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ovseg_cli.errors import VocabularyError
from ovseg_cli.vocabulary import parse_labels

words = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters=",/:@_"),
    min_size=1,
    max_size=12,
)


def test_commas_separate_classes_and_slashes_synonyms() -> None:
    vocabulary = parse_labels("couch/sofa, wine  glass")
    assert vocabulary.names == ("couch", "wine glass")
    assert vocabulary.synonyms == (("couch", "sofa"), ("wine glass",))


def test_common_stuff_words_are_stuff_and_other_words_are_things() -> None:
    assert parse_labels("Sky,dog,walls").is_thing == (False, True, False)


def test_a_mark_decides_between_thing_and_stuff() -> None:
    vocabulary = parse_labels("sky:thing,lawn mower/mower : Stuff")
    assert vocabulary.is_thing == (True, False)
    assert vocabulary.synonyms[1] == ("lawn mower", "mower")


def test_a_file_has_a_class_a_line_and_comments(tmp_path) -> None:
    file = tmp_path / "words, mine.txt"
    file.write_text("# kitchen\ncouch/sofa   # living room\n\nbeer, wine\ngrass:stuff\n")
    vocabulary = parse_labels(f"@{file}")
    assert vocabulary.names == ("couch", "beer", "wine", "grass")
    assert vocabulary.is_thing == (True, True, True, False)


def test_files_lists_and_words_can_be_joined(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("beer\nwine")
    vocabulary = parse_labels(f"@{tmp_path}/words.txt,unicorn,COCO-48-17")
    assert vocabulary.names[:4] == ("beer", "wine", "unicorn", "person")
    assert len(vocabulary) == 3 + 65
    assert vocabulary.seen == ()


def test_a_file_can_be_joined_by_more_words_than_a_file_name_is_long(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("beer\nwine")
    more = ",".join(f"thing number {index}" for index in range(2000))
    assert len(parse_labels(f"@{tmp_path}/words.txt,{more}")) == 2002


def test_prompt_lists_with_numbers_are_read(tmp_path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("0:invalid_class_id\n1:wall,walls\n2:building,walls\n")
    assert parse_labels(f"@{file}").synonyms == (("wall", "walls"), ("building", "walls"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--labels: no labels"),
        (" ", "no labels"),
        ("beer,,wine", "label 2 of 3: the label is empty"),
        ("beer,", "label 2 of 2: the label is empty"),
        ("couch//sofa", "the label is empty"),
        (":stuff", "the label is empty"),
        ("beer,wine,BEER", r"label 3 of 3: 'BEER' is there already \(--labels, label 1 of 3\)"),
        ("wine  glass,wine glass", "is there already"),
        ("couch/sofa,sofa", "'sofa' is there already"),
        ("couch/Couch", "is there already"),
        ("coco_80,cat", "'cat' is there already"),
        ("x" * 101, "has 101 characters, at most 100"),
        ("be\x1b[31mer", "control characters"),
        ("\u202egod", "control characters"),
        ("sky:stuf", "ends in ':thing' or ':stuff', not in ':stuf'"),
        ("ade20k_15", "did you mean 'ade20k_150'"),
        ("@missing.txt", "missing.txt: no such file of labels"),
        ("dog,@missing.txt", "missing.txt: no such file of labels"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_in_one_sentence(text, message) -> None:
    with pytest.raises(VocabularyError, match=message) as error:
        parse_labels(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no labels"),
        (b"# nothing\n", "no labels"),
        (b"\xff\xfe\x00d", "not a text file in UTF-8"),
        (b"dog\0cat", "not a text file"),
        (b"dog\n\n,cat", "line 3: the label is empty"),
        (b"dog\ncat/DOG", "line 2: 'DOG' is there already .*line 1"),
        (b"0:invalid_class_id\n", "no labels"),
        (b"1:dog\ncat", "line 2: 'number:name,synonym' is expected"),
        (b"x" * 2_000_001, "too large"),
    ],
)
def test_label_files_that_cannot_be_used_name_the_line(tmp_path, content, message) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(VocabularyError, match=f"labels.txt.*{message}"):
        parse_labels(f"@{file}")


def test_a_folder_is_no_label_file(tmp_path) -> None:
    with pytest.raises(VocabularyError, match="cannot be read as labels"):
        parse_labels(f"@{tmp_path}")


def test_too_many_classes_are_refused(tmp_path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(f"word {index}" for index in range(20_001)))
    with pytest.raises(VocabularyError, match="20001 classes"):
        parse_labels(f"@{file}")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=5))
def test_words_come_back_as_they_were_written(classes) -> None:
    folded = [unicodedata.normalize("NFKC", w).casefold() for group in classes for w in group]
    assume(len(set(folded)) == len(folded))
    vocabulary = parse_labels(" , ".join(" / ".join(group) + ":thing" for group in classes))
    assert [list(synonyms) for synonyms in vocabulary.synonyms] == classes
    assert all(vocabulary.is_thing)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_vocabulary_or_one_clear_sentence(text) -> None:
    with contextlib.suppress(VocabularyError):
        vocabulary = parse_labels(text)
        assert len(vocabulary) > 0
        assert all(name.strip() for name in vocabulary.names)
