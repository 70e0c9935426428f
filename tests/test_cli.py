import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.main import get_command

from ovseg_cli.cli import app, main
from ovseg_cli.cli_consent import consent

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "gpt"], "gpt: not in the catalogue"),
        (["show", "gpt"], "gpt: not in the catalogue"),
        (["pull", "mask2former-r51"], "did you mean 'mask2former-r50'?"),
        (["pull", "maskclip"], "https://drive.google.com"),
        (["pull", "mask2former-r50"], "would download about 1.9 GB"),
    ],
)
def test_what_cannot_be_pulled_is_one_sentence(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert ovseg("models", *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_models_are_listed_and_shown_without_torch():
    code = (
        "import sys\n"
        "sys.argv = ['ovseg', 'models', *sys.argv[1:]]\n"
        "from ovseg_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code in (0, None)\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)\n"
    )
    done = [
        subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        for words in (["list", "--json"], ["show", "masqclip"])
    ]
    assert [run.returncode for run in done] == [0, 0], done
    records = {record["name"]: record for record in json.loads(done[0].stdout)}
    assert records["tiny"]["here"]
    assert records["masqclip"]["commercial"] is False
    assert (
        "https://drive.google.com/drive/folders/1wGpl9k7lEYigvSiI2IMx_V_TBGrzfVNl" in done[1].stdout
    )


@pytest.mark.parametrize(
    ("yes", "terminal", "typed", "expected"),
    [(True, False, "", True), (False, False, "", None), (False, True, "y", True),
     (False, True, "n", False)],
)  # fmt: skip
def test_consent_is_given_by_the_option_or_typed_at_a_terminal(
    monkeypatch, yes, terminal, typed, expected
):
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: typed == "y")
    assert consent(yes)("download?") is expected
