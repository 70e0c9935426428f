"""The pages, read by a parser: whole, escaped, and nothing from anywhere else."""

import base64
import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from example_reports import evaluation_report, noise, prediction_report, row
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import ReportPage

from ovseg_cli.report.confusions import Confusion, most_confused, most_confused_pixels
from ovseg_cli.report.elements import clean
from ovseg_cli.report.evaluation import ScoredPicture, evaluation_page
from ovseg_cli.report.page import page
from ovseg_cli.report.pictures import picture_of
from ovseg_cli.report.prediction import (
    MOST_ROWS,
    MOST_WORDS,
    prediction_page,
)

NASTY = [
    "<script>alert(1)</script>",
    "\"quotes\" & 'apostrophes'",
    "</td></table><img src=x onerror=alert(1)>",
    "كلب",
    "‮reversed",
    "]]> --> <!--",
    "javascript:alert(1)",
    "&lt;already&gt;",
    "</style></title></script>",
]


PAGES = {
    "evaluation": lambda names: evaluation_page(evaluation_report(names)),
    "prediction": lambda names: prediction_page(prediction_report(names)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_what_users_write_is_shown_as_they_wrote_it(kind: str) -> None:
    html = PAGES[kind](NASTY)
    read = ReportPage(html)
    for name in NASTY:
        assert name in read.text()
    assert html.count("<script>") == 1
    assert len(read.images) == {"evaluation": 6, "prediction": len(NASTY)}[kind]


@pytest.mark.parametrize("kind", PAGES)
@settings(max_examples=15, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3, unique=True))
def test_any_text_makes_a_whole_page(kind: str, names: list[str]) -> None:
    html = PAGES[kind](names)
    html.encode("utf-8")
    text = ReportPage(html).text().replace("\r\n", "\n").replace("\r", "\n")
    for name in names:
        assert clean(name).replace("\r\n", "\n").replace("\r", "\n") in text


def test_bytes_and_controls_are_marked() -> None:
    assert clean("a\x00b\x1b[31mc\udcffd") == "a�b�[31mc�d"
    assert clean("tab\tline\n") == "tab\tline\n"


def test_only_the_script_of_the_page_may_run() -> None:
    read = ReportPage(page("title", "subtitle", []))
    (script,) = read.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", read.policy) == [f"'sha256-{digest}'"]
    assert not re.search(r"fetch|XMLHttp|import|innerHTML|eval|http", script)


def test_classes_stand_with_the_best_first_and_those_without_a_figure_last() -> None:
    report = evaluation_report(["a"])
    rows = [row("low", 0.1), row("none", None), row("high", 0.9), row("never", 0.5, annotated=0.0)]
    read = ReportPage(evaluation_page(replace(report, per_class=rows)))
    head = read.rows.index(["class", "kind", "PQ", "IoU", "annotated"])
    assert read.rows[head + 1 : head + 5] == [
        ["high", "thing", "90.0", "50.0", "3"],
        ["never", "thing", "50.0", "50.0", "0"],
        ["low", "thing", "10.0", "50.0", "3"],
        ["none", "thing", "–", "50.0", "3"],  # noqa: RUF001
    ]


def test_the_scores_say_seen_and_unseen() -> None:
    read = ReportPage(evaluation_page(evaluation_report(["a", "b"])))
    assert ["PQ", "50.0", "75.0"] in read.rows
    assert "seen 75.0 · unseen 25.0" in read.texts
    assert ["a", "nothing", "1,234,567", "50.0"] in read.rows
    assert ["a", "b", "3", "10.0"] in read.rows
    assert ["a", "12.0"] in read.rows
    assert "thing, unseen" in read.text()


def test_an_evaluation_without_pictures_and_confusions_leaves_them_out() -> None:
    report = replace(evaluation_report(["a"]), pixels=[], segments=[], best=[], worst=[], tables={})
    read = ReportPage(evaluation_page(report))
    assert "What is taken for what" not in read.text()
    assert not read.pictures


def test_a_page_of_many_classes_and_the_largest_pictures_is_bounded() -> None:
    picture = picture_of(noise(size=(512, 512)), longest_side=512, most_bytes=70_000)
    scored = [ScoredPicture("a.jpg", 0.5, picture, picture)] * 6
    rows = [row(f"class {i}", i / 2000, seen=i % 2 == 0) for i in range(1203)]
    report = replace(evaluation_report(["a"]), per_class=rows, best=scored, worst=scored)
    assert 1_000_000 < len(evaluation_page(report)) < 3_000_000


def test_a_prediction_says_what_it_does_not_show() -> None:
    words = [f"word {i:05}" for i in range(5000)]
    found = {word: 1 + i for i, word in enumerate(words[:1000])}
    report = replace(
        prediction_report(["a"]),
        images=77,
        words=words,
        found=found,
        failed=12,
        failures=[("b", "c")],
    )
    html = prediction_page(report)
    read = ReportPage(html)
    text = read.text()
    assert "77 images, 5,000 words, 12 inputs failed" in text
    assert "And 76 images more, in the folder overlays." in text
    assert "And 11 inputs more" in text
    assert f"And {1000 - MOST_ROWS} words more" in text
    assert f"and {4000 - MOST_WORDS:,} more" in text
    assert ["word 00999", "1,000", "0.2"] in read.rows
    assert len(html) < 200_000


def test_links_lead_into_the_folder_whatever_the_name() -> None:
    read = ReportPage(prediction_page(prediction_report(["a b#c?d%e", "é\udcff"])))
    assert read.links == [
        "./overlays/a%20b%23c%3Fd%25e.png",
        "./overlays/%C3%A9%3F.png",
    ]


def test_a_picture_fits_its_bytes() -> None:
    for most in (60_000, 20_000, 3_000):
        made = picture_of(noise(size=(300, 200)), longest_side=256, most_bytes=most)
        assert len(base64.b64decode(made.uri.partition(",")[2])) <= most
        assert made.size[0] >= made.size[1]
    assert picture_of(noise(size=(30, 20)), longest_side=256, most_bytes=9_000).size == (30, 20)


def test_pairs_are_counted_from_the_confusion_matrix() -> None:
    confusion = np.array([[5, 3, 0, 2], [0, 9, 1, 0], [0, 0, 0, 0]])
    assert most_confused_pixels(confusion, ["a", "b", "c"]) == [
        Confusion("a", "b", 3, 0.3),
        Confusion("a", None, 2, 0.2),
        Confusion("b", "c", 1, 0.1),
    ]


def test_the_most_frequent_pairs_come_first_and_are_few() -> None:
    counts = {(0, named): named for named in range(40)}
    found = most_confused(counts, [1000, *[1] * 39], [str(i) for i in range(40)])
    assert [pair.count for pair in found] == list(range(39, 24, -1))
    assert found[0] == Confusion("0", "39", 39, 0.039)
