"""The pages in a real browser: nothing is forbidden or broken, tables sort, something is seen."""

import json
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
STEPS = [(2, ""), (0, "class 1"), (4, "unseen")]  # a column to click on, a word to filter by
SORT = """<script>
const steps = %s, input = document.querySelector("input"), said = [];
for (const [column, word] of steps) {
  document.querySelectorAll("th button")[column].click();
  input.value = word;
  input.dispatchEvent(new Event("input"));
  const rows = [...input.nextElementSibling.querySelectorAll("tbody tr")];
  said.push(rows.map((row) => [row.hidden, ...[...row.cells].map((cell) => cell.textContent)]));
}
const shown = document.createElement("pre");
shown.textContent = "SAID" + JSON.stringify(said) + "SAID";
document.body.append(shown);
</script>"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The browser's own folder, which takes it a while to make."""
    return tmp_path_factory.mktemp("profile")


def browse(path: Path, profile: Path, *options: str) -> str:
    """What headless Chromium prints; console messages fail the test."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={profile}", "--enable-logging=stderr",
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


@pytest.mark.parametrize(
    ("kind", "size"), [("evaluation", WIDE), ("evaluation", PHONE), ("prediction", PHONE)]
)
def test_a_page_is_seen_and_as_wide_as_the_window(
    tmp_path: Path, profile: Path, kind: str, size: tuple[int, int]
) -> None:
    """No part but the frames that scroll by themselves is wider than the window."""
    path, width = tmp_path / "report.html", size[0]
    html = many_classes() if kind == "evaluation" else prediction_page(prediction_report(["dog"]))
    path.write_text(html, encoding="utf-8")
    shot = tmp_path / "shot.png"
    browse(path, profile, f"--window-size={width},{size[1]}", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.width == width
    assert len(image.getcolors(maxcolors=image.width * image.height)) > 50
    margin = np.asarray(image)[:, -8:]
    assert (margin == margin[0, 0]).all()


def test_the_page_as_it_stands_has_heads_to_click_on_and_text_instead_of_markup(
    tmp_path: Path, profile: Path
) -> None:
    """Under its own policy, which lets its own script run."""
    path, html = tmp_path / "report.html", many_classes()
    path.write_text(html, encoding="utf-8")
    dom = browse(path, profile, "--dump-dom")
    assert dom.count('<button type="button">') == 5 + 4 + 4
    assert dom.count('<input type="search"') == 1
    title = "&lt;script&gt;alert(1)&lt;/script&gt;: كلب"
    assert f"<h1>{title}</h1>" in dom
    assert len(ReportPage(html).scripts) == dom.count("<script>") == 1


def test_a_click_sorts_and_a_word_filters(tmp_path: Path, profile: Path) -> None:
    """The policy would forbid the test's own clicks, so it is taken out."""
    html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", many_classes())
    path = tmp_path / "report.html"
    clicked = SORT % json.dumps(STEPS)
    path.write_text(html.replace("</body>", clicked + "</body>"), encoding="utf-8")
    said = json.loads(browse(path, profile, "--dump-dom").split("SAID")[-2])
    for rows, (_, word) in zip(said, STEPS, strict=True):
        assert [hidden for hidden, *_ in rows] == [word not in " ".join(row) for _, *row in rows]
        assert len({row[1] for row in rows}) == 40
    by_figure, by_name, _ = said
    names = [row[1] for row in by_name]
    assert names == sorted(names)
    figures = [float(row[3]) for row in by_figure]  # where they stood from the highest on
    assert figures == sorted(figures)
