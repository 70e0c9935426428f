import os
import signal
import subprocess
import sys
import time

import pytest
from typer.main import get_command

from ovseg_cli.cli import app, main

STAGE = {"run", "recipe", "overrides", "seed", "device", "precision", "restart", "as_json"}
OPTIONS = {
    "train-clip": STAGE,
    "train-proposals": STAGE,
    "distill": STAGE,
    "mine-captions": STAGE | {"folder", "split", "captions", "engine"},
    "tune-clip": STAGE | {"mode"},
}


def ovseg(*arguments, monkeypatch):
    """The exit code of a command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["ovseg", *arguments])
    previous = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        signal.signal(signal.SIGTERM, previous)
    return stopped.value.code


def test_help_comes_without_torch():
    code = (
        "import sys\n"
        "sys.argv = ['ovseg', '--help']\n"
        "from ovseg_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code in (0, None)\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = cpu_seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train-proposals" in done.stdout
    assert cpu_seconds_of_children() - start < 1


def cpu_seconds_of_children():
    used = os.times()
    return used.children_user + used.children_system


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
def test_bad_usage_is_one_sentence_and_exit_code_2(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert ovseg(*arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_stage_ends_with_the_signals_code_and_goes_on_when_asked_again(tmp_path):
    """`kill` in the middle of training, in a real process."""
    run = tmp_path / "run"
    small = ["shapes.train=4", "shapes.val=1", "shapes.test=1", "shapes.pairs_easy=8"]
    small += ["shapes.pairs_crop=1", "shapes.pairs_window=1", "train_proposals.points=32"]
    small += ["train_proposals.steps=60", "train_proposals.batch_size=1"]
    changes = [word for change in small for word in ("--set", change)]
    ovseg = [sys.executable, "-m", "ovseg_cli"]
    recipe = ["--recipe", "tiny/masqclip", *changes]
    make = [*ovseg, "datasets", "make", "shapes", str(run / "shapes"), *recipe, "--workers", "1"]
    subprocess.run(make, check=True, capture_output=True, timeout=120)
    train = [*ovseg, "train-proposals", "--run", str(run), *recipe]
    log = run / "logs/train-proposals.jsonl"
    with subprocess.Popen(train, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    assert not (run / "proposals").exists()
    done = subprocess.run(train, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (run / "proposals/teacher.safetensors").is_file()
    assert "60/60" in done.stderr
    assert " 0/60" not in done.stderr


def test_only_what_there_is_can_be_pulled(monkeypatch, capsys):
    assert ovseg("models", "pull", "gpt", monkeypatch=monkeypatch) == 2
    assert "there is only 'nltk'" in capsys.readouterr().err
