import importlib.util
import json
import re
from pathlib import Path

from typer.main import get_command

from ovseg_cli.cli import app

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "recipes/tiny/studies/masqclip.py"


def test_the_table_of_results_is_the_studys():
    spec = importlib.util.spec_from_file_location("study", STUDY)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    results = json.loads(STUDY.with_suffix(".json").read_text(encoding="utf-8"))
    assert study.table(list(results.values())) in README


def test_every_command_in_the_readme_exists():
    commands = set(get_command(app).commands)
    named = set(re.findall(r"^\| `ovseg ([a-z-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= commands


def test_the_readme_names_the_two_commands():
    assert "pip install . && ovseg demo" in README
    assert 'pip install ".[test]" && pytest' in README
