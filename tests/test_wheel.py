import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel of this checkout, built and unpacked into an otherwise empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    assert "py3-none-any" in wheel.name
    assert wheel.stat().st_size < 12_000_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def from_wheel(unpacked, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "ovseg_cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_holds_recipes_vocabularies_and_the_model(unpacked):
    package = unpacked / "ovseg_cli"
    assert (package / "recipes/tiny/masqclip.yaml").is_file()
    assert (package / "checkpoints/catalogue.yaml").is_file()
    assert (package / "assets/tiny/recipe.yaml").is_file()
    assert any((package / "vocabulary/data").iterdir())
    assets = sum(p.stat().st_size for p in (package / "assets").rglob("*") if p.is_file())
    assert assets < 10_000_000


def test_recipes_are_found_by_name_from_any_folder(unpacked, tmp_path):
    code = (
        "import ovseg_cli, pathlib; from ovseg_cli.recipe import load_recipe, recipe_path;"
        "load_recipe('tiny/masqclip'); print(recipe_path('tiny/masqclip'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).is_relative_to(unpacked)


def test_the_demo_runs_from_the_wheel_in_any_folder(unpacked, tmp_path):
    done = from_wheel(unpacked, tmp_path, "demo")
    assert done.returncode == 0, done.stderr
    assert "ovseg predict" in done.stdout
    assert list((tmp_path / "ovseg-demo").rglob("*.png"))
