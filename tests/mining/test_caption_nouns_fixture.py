"""The nouns of 300 captions, made by hand: their form, and that they stand in their captions."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "caption_nouns.json"
SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()
CAPTIONS = SAMPLES / "coco_captions_sugarcrepe" / "data"
KINDS = ("nouns", "relational")


@pytest.fixture(scope="module")
def annotated() -> dict[str, dict[str, list[str]]]:
    return json.loads(FIXTURE.read_text(encoding="utf-8"))["captions"]


@pytest.fixture(scope="module")
def captions() -> dict[str, str]:
    """The captions that the fixture's source names, by the sha256 of their text."""
    if not CAPTIONS.is_dir():
        pytest.skip(f"no folder {CAPTIONS}; set OVSEG_SAMPLES")
    files = [json.loads(file.read_text(encoding="utf-8")) for file in CAPTIONS.glob("*.json")]
    texts = {entry["caption"].strip() for file in files for entry in file.values()}
    by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}
    return {sha256[:12]: by_hash[sha256] for sha256 in sorted(by_hash)[:300]}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower())


def stand_in_order(nouns: list[str], caption: str) -> bool:
    """Whether the nouns, word by word, follow one another in the caption without overlap."""
    text, start = words(caption), 0
    for noun in map(words, nouns):
        ends = range(start + len(noun), len(text) + 1)
        start = next((end for end in ends if text[end - len(noun) : end] == noun), -1)
        if start < 0:
            return False
    return True


def test_a_source_and_rules_are_told() -> None:
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert list(fixture) == ["source", "rules", "captions"]
    assert fixture["source"]
    assert all(isinstance(rule, str) and rule for rule in fixture["rules"])


def test_there_are_300_captions_in_the_order_of_their_ids(annotated) -> None:
    assert len(annotated) == 300
    assert list(annotated) == sorted(annotated)
    assert all(re.fullmatch(r"[0-9a-f]{12}", key) for key in annotated)


def test_every_caption_has_nouns_in_lower_case_each_once(annotated) -> None:
    for key, entry in annotated.items():
        assert tuple(entry) == KINDS, key
        assert entry["nouns"], key
        every = entry["nouns"] + entry["relational"]
        assert len(set(every)) == len(every), key
        assert all(noun and " ".join(words(noun)) == noun for noun in every), key


def test_no_caption_is_copied(annotated) -> None:
    longest = max(
        len(noun.split()) for e in annotated.values() for kind in KINDS for noun in e[kind]
    )
    assert longest <= 3


@pytest.mark.parametrize(
    ("nouns", "stand"),
    [
        (["chefs hat", "hat"], True),
        (["hat", "chefs hat"], False),
        (["hat", "hat", "hat"], False),
        (["girl hat"], False),
        (["hats"], False),
    ],
)
def test_nouns_out_of_place_are_seen(nouns: list[str], stand: bool) -> None:
    assert stand_in_order(nouns, "A girl in a chefs hat, and a hat.") is stand


def test_the_ids_are_the_first_300_captions_by_hash(annotated, captions) -> None:
    assert set(annotated) == set(captions)


@pytest.mark.parametrize("kind", KINDS)
def test_nouns_stand_in_their_captions_in_order(annotated, captions, kind: str) -> None:
    assert [
        key for key in annotated if not stand_in_order(annotated[key][kind], captions[key])
    ] == []
