import importlib.util
import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from ovseg_cli.cli import app

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
STUDIES = CHECKOUT / "recipes/tiny/studies"


@pytest.mark.parametrize("results", sorted(STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_table_of_results_is_its_studys(results, monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    spec = importlib.util.spec_from_file_location("study", results.with_suffix(".py"))
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    runs = list(json.loads(results.read_text(encoding="utf-8")).values())
    for table in study.table(runs).split("\n\n"):
        assert table in README


def test_every_study_has_its_results():
    scripts = {path.stem for path in STUDIES.glob("*.py")} - {"seeds"}
    assert scripts == {path.stem for path in STUDIES.glob("*.json")}


def test_every_command_in_the_readme_exists():
    commands = set(get_command(app).commands)
    named = set(re.findall(r"^\| `ovseg ([a-z-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= commands


def test_the_readme_names_the_two_commands():
    assert "pip install . && ovseg demo" in README
    assert 'pip install ".[test]" && pytest' in README
