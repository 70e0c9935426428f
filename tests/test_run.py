import ctypes
import errno
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from ovseg_cli.errors import CheckpointError, RunError, StorageError
from ovseg_cli.recipe import parse_recipe
from ovseg_cli.run import Run, StageRecord, fingerprint_of
from ovseg_cli.run_lock import _alive_on_windows, take_lock
from ovseg_cli.storage import write_text, writing


def record(**changes):
    return StageRecord(**{"stage": "train-clip", "fingerprint": "f", "seconds": 1.0, **changes})


def test_an_artifact_comes_back_as_it_was_saved(tmp_path):
    run = Run(tmp_path)
    run.save_artifact("clip", "base", {"weight": torch.arange(3)}, {"width": 8})
    tensors, model = run.load_artifact("clip", "base")
    assert torch.equal(tensors["weight"], torch.arange(3))
    assert model == {"width": 8}


def test_a_missing_artifact_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(RunError, match="make it with 'ovseg train-proposals --run"):
        Run(tmp_path).load_artifact("proposals", "teacher")


def test_a_damaged_artifact_is_named(tmp_path):
    run = Run(tmp_path)
    path = run.save_artifact("clip", "base", {"weight": torch.arange(3)}, {})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"base\.safetensors: not a readable"):
        run.load_artifact("clip", "base")


def test_the_newest_artifact_is_the_last_one_that_still_stands(tmp_path):
    run = Run(tmp_path)
    for name in ("base", "masq"):
        run.save_artifact("clip", name, {"w": torch.zeros(1)}, {})
        run.record(record(artifact=f"clip/{name}"))
    assert run.newest("clip") == "masq"
    run.artifact_path("clip", "masq").unlink()
    assert run.newest("clip") == "base"
    assert run.newest("proposals") is None


def test_the_newest_artifact_of_a_model_goes_before_newer_ones_of_others(tmp_path):
    run = Run(tmp_path)
    for name, model in (("teacher", "mask2former"), ("student-1", "mask2former"), ("mf", "x")):
        run.save_artifact("proposals", name, {"w": torch.zeros(1)}, {"name": model})
        run.record(record(artifact=f"proposals/{name}"))
    assert run.newest("proposals") == "mf"
    assert run.newest("proposals", model_name="mask2former") == "student-1"
    assert run.newest("proposals", model_name="mask_rcnn") == "mf"


def test_finished_work_is_known_by_its_settings(tmp_path):
    run = Run(tmp_path)
    run.save_artifact("clip", "base", {"w": torch.zeros(1)}, {})
    run.record(record(artifact="clip/base"))
    assert run.finished("train-clip", "f", "clip/base") is not None
    assert run.finished("train-clip", "other", "clip/base") is None
    run.artifact_path("clip", "base").unlink()
    assert run.finished("train-clip", "f", "clip/base") is None


def test_the_recipe_is_kept(tmp_path):
    recipe = parse_recipe("seed: 2\nclip:\n  width: 8\n", name="r")
    with pytest.raises(RunError, match="--recipe"):
        Run(tmp_path).recipe()
    Run(tmp_path).save_recipe(recipe)
    assert Run(tmp_path).recipe().sections == recipe.sections


@pytest.mark.parametrize("text", ["{", '{"stages": 5}', '{"stages": [1]}', '{"stages": [{}]}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json: damaged"):
        Run(tmp_path).manifest()


def test_two_processes_cannot_write_at_once(tmp_path):
    run = Run(tmp_path)
    with run.lock(), pytest.raises(RunError, match="is writing there"), run.lock():
        pass
    with run.lock():
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = "import os, sys; print(os.getpid())"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    lock = {"pid": pid, "host": socket.gethostname()}
    (tmp_path / ".lock").write_text(json.dumps(lock))
    with Run(tmp_path).lock():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("pid", [-1, 0, 10**30])
def test_a_lock_of_no_possible_process_is_taken_over(tmp_path, pid):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    take_lock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_that_is_just_being_written_is_not_taken_over(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("")
    with pytest.raises(RunError, match="is writing there"):
        take_lock(path)
    os.utime(path, (0, 0))
    take_lock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()


class Kernel:
    """The three functions of kernel32 over a table of processes: those that run, those that ended
    and are still known, and those that nobody may ask for.
    """

    def __init__(self, **states):
        self.states = {int(pid.removeprefix("p")): state for pid, state in states.items()}
        self.open, self.error = {}, 0
        self.OpenProcess = lambda access, inherit, pid: self.opened(pid.value)
        self.WaitForSingleObject = lambda handle, _: self.waited(self.open[handle.value])
        self.CloseHandle = lambda handle: self.open.pop(handle.value)

    def opened(self, pid):
        state = self.states.get(pid)
        self.error = {"forbidden": 5, None: 87}.get(state, 0)
        if self.error:
            return None
        self.open[1000 + pid] = state
        return 1000 + pid

    def waited(self, state):
        return 0x102 if state == "runs" else 0


def test_windows_is_asked_for_a_process_which_is_left_alone(tmp_path, monkeypatch):
    kernel = Kernel(p4="runs", p8="ended", p12="forbidden")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, **_: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: kernel.error, raising=False)
    assert [_alive_on_windows(pid) for pid in (4, 8, 12, 16)] == [True, False, True, False]
    assert not kernel.open


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_half_way():
        with writing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left on the disk"), (errno.EROFS, "cannot be written")],
)
def test_a_full_or_read_only_disk_is_said_in_a_sentence(tmp_path, number, message):
    path = tmp_path / "file.txt"
    with pytest.raises(StorageError, match=message) as caught, writing(path):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_fingerprints_differ_with_any_setting():
    assert fingerprint_of({"a": 1}, 0) == fingerprint_of({"a": 1}, 0)
    assert fingerprint_of({"a": 1}, 0) != fingerprint_of({"a": 2}, 0)
