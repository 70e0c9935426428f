"""The figures of an evaluation as spreadsheets read them."""

import csv
import io

from ovseg_cli.stages.evaluation_files import class_csv


def test_a_class_name_is_never_a_formula() -> None:
    names = ["=1+1", "+1", "-dog", "@sum", "\tcat", "dog", "dog, cat", 'a "b"']
    text = class_csv([{"class": name, "pq": 0.5} for name in names])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["class"] for row in rows] == [
        "'=1+1",
        "'+1",
        "'-dog",
        "'@sum",
        "'\tcat",
        "dog",
        "dog, cat",
        'a "b"',
    ]
    assert {row["pq"] for row in rows} == {"0.5"}
