import hashlib
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.vocabulary import VILD, parse_labels, text_embeddings


class Encoder:
    """Any text has its own vector; what was asked is remembered."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, sentences):
        self.asked += sentences
        return torch.stack([self.vector(sentence) for sentence in sentences])

    def vector(self, sentence):
        seed = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big")
        return torch.randn(8, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.fixture
def encode():
    return Encoder()


def test_bare_names_keep_their_length_and_come_in_the_order_of_classes(encode) -> None:
    texts = text_embeddings(parse_labels("couch/sofa,dog"), encode)
    assert texts.class_of.tolist() == [0, 0, 1]
    expected = torch.stack([encode.vector(word) for word in ("couch", "sofa", "dog")])
    torch.testing.assert_close(texts.embeddings, expected)
    assert not texts.has_background


def test_the_background_is_the_last_class(encode) -> None:
    texts = text_embeddings(parse_labels("couch/sofa,dog"), encode, background="background")
    assert texts.class_of.tolist() == [0, 0, 1, 2]
    assert texts.has_background
    torch.testing.assert_close(texts.embeddings[-1], encode.vector("background"))


def test_templates_are_normalised_averaged_and_normalised(encode) -> None:
    texts = text_embeddings(parse_labels("dog"), encode, templates=("a {}", "two {}s"))
    first, second = (F.normalize(encode.vector(text), dim=0) for text in ("a dog", "two dogs"))
    torch.testing.assert_close(texts.embeddings[0], F.normalize(first + second, dim=0))


def test_a_word_is_encoded_once_though_it_stands_for_two_classes(encode) -> None:
    vocabulary = parse_labels("ade20k_150")  # "screen" is a synonym of three
    texts = text_embeddings(vocabulary, encode)
    words = [word for synonyms in vocabulary.synonyms for word in synonyms]
    assert len(texts.embeddings) == len(words) > len(encode.asked) == len(set(words))
    rows = [index for index, word in enumerate(words) if word == "screen"]
    assert len(rows) > 1
    assert all(torch.equal(texts.embeddings[row], encode.vector("screen")) for row in rows)


def test_braces_in_a_name_are_letters_like_others(encode) -> None:
    text_embeddings(parse_labels("{0} and {}"), encode, templates=("a {}",))
    assert encode.asked == ["a {0} and {}"]


def test_the_cache_answers_the_second_time(encode, tmp_path) -> None:
    vocabulary = parse_labels("couch/sofa,dog")
    options = {"templates": VILD, "background": "background", "cache": tmp_path}
    first = text_embeddings(vocabulary, encode, model_key="a", **options)
    asked = len(encode.asked)
    again = text_embeddings(vocabulary, encode, model_key="a", **options)
    assert len(encode.asked) == asked == 14 * 4
    assert torch.equal(first.embeddings, again.embeddings)
    assert first.class_of.tolist() == again.class_of.tolist()


def test_other_weights_words_or_templates_are_not_taken_from_the_cache(encode, tmp_path) -> None:
    for labels, templates, key in [
        ("dog", ("{}",), "a"),
        ("dog", ("{}",), "b"),
        ("cat", ("{}",), "a"),
        ("dog", ("a {}",), "a"),
    ]:
        before = len(encode.asked)
        text_embeddings(
            parse_labels(labels), encode, templates=templates, cache=tmp_path, model_key=key
        )
        assert len(encode.asked) == before + 1


def test_vocabularies_share_the_words_that_they_have_in_common(encode, tmp_path) -> None:
    options = {"cache": tmp_path, "model_key": "a", "background": "background"}
    text_embeddings(parse_labels("couch/sofa,dog"), encode, **options)
    encode.asked.clear()
    texts = text_embeddings(parse_labels("dog,cat,sofa"), encode, **options)
    assert encode.asked == ["cat"]
    words = ("dog", "cat", "sofa", "background")
    torch.testing.assert_close(texts.embeddings, torch.stack([encode.vector(w) for w in words]))


def write_words(folder: Path, first: int, barrier) -> None:
    """Several vocabularies, each half of the one before, while another process does the same."""
    barrier.wait()
    for start in range(first, first + 20, 2):
        labels = ",".join(f"word {index}" for index in range(start, start + 4))
        text_embeddings(parse_labels(labels), Encoder(), cache=folder, model_key="a")


def test_two_processes_may_write_at_once(encode, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=write_words, args=(tmp_path, first, barrier)) for first in (0, 10)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    labels = ",".join(f"word {index}" for index in range(32))
    texts = text_embeddings(parse_labels(labels), encode, cache=tmp_path, model_key="a")
    assert encode.asked == []
    expected = torch.stack([encode.vector(f"word {index}") for index in range(32)])
    torch.testing.assert_close(texts.embeddings, expected)
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_damaged_cache_is_made_again(encode, tmp_path) -> None:
    vocabulary = parse_labels("dog")
    text_embeddings(vocabulary, encode, cache=tmp_path, model_key="a")
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    texts = text_embeddings(vocabulary, encode, cache=tmp_path, model_key="a")
    torch.testing.assert_close(texts.embeddings[0], encode.vector("dog"))
    assert file.stat().st_size > 20


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(encode, tmp_path) -> None:
    (tmp_path / "file").touch()
    texts = text_embeddings(
        parse_labels("dog"), encode, cache=tmp_path / "file" / "cache", model_key="a"
    )
    assert len(texts.embeddings) == 1
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("templates", [(), ("a dog",), ("{} {}",)])
def test_templates_without_one_place_are_a_callers_mistake(encode, templates) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        text_embeddings(parse_labels("dog"), encode, templates=templates)


def test_a_cache_needs_a_models_key(encode, tmp_path) -> None:
    with pytest.raises(ValueError, match="key"):
        text_embeddings(parse_labels("dog"), encode, cache=tmp_path)


def test_many_words_are_kept_part_by_part_and_go_on_where_they_stopped(
    encode, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(sys.modules[text_embeddings.__module__], "KEEP", 3)
    vocabulary = parse_labels(",".join(f"w{number}" for number in range(8)))

    def interrupted(sentences):
        if "w6" in sentences:
            raise KeyboardInterrupt
        return encode(sentences)

    with pytest.raises(KeyboardInterrupt):
        text_embeddings(vocabulary, interrupted, cache=tmp_path, model_key="a")
    assert encode.asked == [f"w{number}" for number in range(6)]
    texts = text_embeddings(vocabulary, encode, cache=tmp_path, model_key="a")
    assert encode.asked == [f"w{number}" for number in range(8)]
    expected = torch.stack([encode.vector(f"w{number}") for number in range(8)])
    torch.testing.assert_close(texts.embeddings, expected)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
