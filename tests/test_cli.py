import subprocess
import sys
import time

import pytest
from typer.main import get_command

from ovseg_cli.cli import app

STAGE = {"run", "recipe", "overrides", "seed", "device", "precision", "restart", "as_json"}
OPTIONS = {
    "train-clip": STAGE,
    "train-proposals": STAGE,
    "tune-clip": STAGE | {"mode"},
}


def ovseg(*arguments, **options):
    command = [sys.executable, "-m", "ovseg_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_comes_without_torch():
    code = (
        "import sys\n"
        "sys.argv = ['ovseg', '--help']\n"
        "from ovseg_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code in (0, None)\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train-proposals" in done.stdout
    assert time.process_time() - start < 1


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_the_options_of_a_command_are_frozen(command):
    parameters = get_command(app).commands[command].params
    assert {p.name for p in parameters} - {"help"} == OPTIONS[command]


def test_every_command_has_a_sentence_of_help():
    for name, command in get_command(app).commands.items():
        assert command.help, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-clip", "--recipe", "tiny/masqlip"], "did you mean 'tiny/masqclip'?"),
        (["train-clip", "--recipe", "tiny/masqclip", "--set", "clips.x=1"], "no section 'clips'"),
        (["train-clip", "--recipe", "tiny/masqclip", "--device", "tpu"], "--device tpu"),
        (["train-clip", "--recipe", "tiny/masqclip", "--precision", "fp8"], "--precision fp8"),
        (["train-clip"], "no recipe.yaml there; name one with --recipe"),
        (["tune-clip", "--mode", "mask", "--recipe", "tiny/masqclip"], "--mode mask"),
        (["datasets", "make", "cubes", "x"], "only the synthetic set"),
        (["evaluate"], "no recipe.yaml there"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(tmp_path, arguments, message):
    done = ovseg(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
