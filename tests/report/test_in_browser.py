"""The pages in a real browser: nothing is forbidden or broken, tables sort, something is seen."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_reports import evaluation_report, prediction_report, row
from PIL import Image
from report_page import ReportPage

from ovseg_cli.report.evaluation import evaluation_page
from ovseg_cli.report.prediction import prediction_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]
WIDE, PHONE = (1200, 1000), (400, 1000)
SORT = """<script>
document.querySelectorAll("th button")[{column}].click();
const input = document.querySelector("input");
input.value = "{word}";
input.dispatchEvent(new Event("input"));
</script>"""


def browse(path: Path, *options: str) -> str:
    """What headless Chromium prints; console messages fail the test."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr",
        *options, path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=240, check=True)
    errors = done.stderr.decode("utf-8", "replace")
    assert "CONSOLE" not in errors, errors
    return done.stdout.decode("utf-8")


def many_classes() -> str:
    rows = [row(f"class {i:02}", (i * 7 % 40) / 40, seen=i % 2 == 0) for i in range(40)]
    report = replace(evaluation_report(["<script>alert(1)</script>", "كلب"]), per_class=rows)
    return evaluation_page(report)


@pytest.mark.parametrize("size", [WIDE, PHONE])
@pytest.mark.parametrize("kind", ["evaluation", "prediction"])
def test_a_page_is_seen_and_as_wide_as_the_window(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    """No part but the frames that scroll by themselves is wider than the window."""
    path, width = tmp_path / "report.html", size[0]
    html = many_classes() if kind == "evaluation" else prediction_page(prediction_report(["dog"]))
    path.write_text(html, encoding="utf-8")
    shot = tmp_path / "shot.png"
    browse(path, f"--window-size={width},{size[1]}", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.width == width
    assert len(image.getcolors(maxcolors=image.width * image.height)) > 50
    margin = np.asarray(image)[:, -8:]
    assert (margin == margin[0, 0]).all()


def test_the_script_makes_heads_to_click_on(tmp_path: Path) -> None:
    """As it stands, under its own policy."""
    path = tmp_path / "report.html"
    path.write_text(many_classes(), encoding="utf-8")
    dom = browse(path, "--dump-dom")
    assert dom.count('<button type="button">') == 5 + 4 + 4
    assert dom.count('<input type="search"') == 1


@pytest.mark.parametrize(("column", "word"), [(0, "class 1"), (2, ""), (4, "unseen")])
def test_a_click_sorts_and_a_word_filters(tmp_path: Path, column: int, word: str) -> None:
    """The policy would forbid the test's own clicks, so it is taken out."""
    html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", many_classes())
    path = tmp_path / "report.html"
    clicked = SORT.format(column=column, word=word)
    path.write_text(html.replace("</body>", clicked + "</body>"), encoding="utf-8")
    body = browse(path, "--dump-dom").partition("40 classes")[2].partition("</table>")[0]
    rows = re.findall(r"<tr( hidden=\"\")?>(.*?)</tr>", body.partition("<tbody>")[2])
    names = [re.sub("<[^>]*>", "|", cells) for _, cells in rows]
    assert [bool(hidden) for hidden, _ in rows] == [word not in name for name in names]
    firsts = [re.findall(r"class \d\d", name)[0] for name in names]
    figures = [float(re.findall(r"([\d.]+)\|\|50\.0", name)[0]) for name in names]
    if column == 0:
        assert firsts == sorted(firsts)
    elif column == 2:  # where they stood from the highest on
        assert figures == sorted(figures)
    assert len(set(firsts)) == 40


def test_what_is_shown_is_the_text_and_not_markup(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(many_classes(), encoding="utf-8")
    dom = browse(path, "--dump-dom")
    title = "&lt;script&gt;alert(1)&lt;/script&gt;: كلب"
    assert f"<h1>{title}</h1>" in dom
    assert len(ReportPage(many_classes()).scripts) == dom.count("<script>") == 1
