import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from ovseg_cli import doctor
from ovseg_cli.cli import app
from ovseg_cli.doctor import diagnose, environment, files, machine
from ovseg_cli.doctor.environment import matching_torchvision
from ovseg_cli.doctor.run_directory import run_directory
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord


def named(findings, name):
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


@pytest.fixture
def run(tmp_path):
    """A run directory with a recipe and one artifact."""
    run = Run(tmp_path / "run")
    run.save_recipe(Recipe("test"))
    run.save_artifact("clip", "base", {"weight": torch.zeros(100)}, {"architecture": "small"})
    run.record(StageRecord("train-clip", "1", 1.0, "clip/base"))
    return run


def test_a_working_installation_has_no_problem(tmp_path) -> None:
    findings = diagnose(tmp_path)
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert all(finding.found for finding in findings)
    for name in ("python", "torch", "torchvision", "torchvision operators", "CLIP", "recipes"):
        assert named(findings, name).status == "ok", named(findings, name)
    assert "cores" in named(findings, "device cpu").found
    assert not [finding for finding in findings if finding.status == "problem"]
    assert all((finding.mend is None) == (finding.status == "ok") for finding in findings)


@pytest.mark.parametrize(
    ("torch_version", "series"),
    [("2.13.0+cpu", "0.28"), ("2.10.1", "0.25"), ("1.13.1", None), ("3.0.0", None)],
)
def test_torchvisions_series_follows_torchs(torch_version, series) -> None:
    assert matching_torchvision(torch_version) == series


def test_a_torchvision_of_another_torch_is_told_with_the_right_one(monkeypatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.29.2"}
    monkeypatch.setattr(environment, "installed", lambda package: versions.get(package, "1.0"))
    finding = environment.torchvision_pair()
    assert finding.found == "0.29.2, made for another torch"
    assert "torchvision==0.28.*" in finding.mend
    assert finding.status == "warning"  # our operators take the place of its own


def test_what_is_missing_is_told_with_its_mend(monkeypatch) -> None:
    monkeypatch.setattr(environment, "installed", lambda package: None)
    findings = diagnose()
    assert named(findings, "torch").mend == "pip install ovseg"
    assert named(findings, "scipy").mend == "pip install scipy"
    assert named(findings, "scipy").status == "problem"
    assert "video not installed" in named(findings, "extras").found


def test_a_package_that_does_not_import_is_a_finding_not_a_crash(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ovseg_cli.clip", None)
    finding = environment.clip()
    assert "ModuleNotFoundError" in finding.found
    assert finding.mend
    assert finding.status == "problem"


def test_the_doctor_comes_without_torch(tmp_path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('a library is missing')")
    (tmp_path / "run").mkdir()
    code = "from ovseg_cli.cli import main; import sys; sys.argv = ['ovseg', 'doctor', '--json']"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert "OSError: a library is missing" in findings["torch"]["found"]
    assert findings["torch"]["status"] == "problem"
    assert findings["device cuda"]["found"] == "not known without torch"
    assert "as torch does not load" in findings["run directory"]["found"]


def test_a_full_disk_is_told(monkeypatch, tmp_path) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    finding = machine.space(tmp_path)
    assert "free some space" in finding.mend
    assert finding.status == "warning"
    assert machine.space(tmp_path / "none").status == "problem"


def test_memory_is_read_where_the_system_says_it(monkeypatch, tmp_path) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  1048576 kB\nbroken\n")
    monkeypatch.setattr(machine, "MEMORY_TABLE", table)
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    finding = machine.memory()
    assert finding.found == "1.0 GB of 8.0 GB free"
    (tmp_path / "memory.max").write_text(f"{4 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{7 * 2**29}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    assert machine.memory().found == "0.8 GB of 4.0 GB free"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory().found == "1.0 GB of 8.0 GB free"
    assert finding.status == "warning"
    monkeypatch.setattr(machine, "MEMORY_TABLE", tmp_path / "none")
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 2**20, raising=False)
    assert machine.memory().found == "1024.0 GB"
    monkeypatch.delattr(machine.os, "sysconf")
    assert machine.memory().status == "ok"


def test_gpus_tell_their_free_memory_or_why_there_are_none(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.cuda().status == "ok"
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "install a torch with CUDA" in machine.cuda().mend
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "update the NVIDIA driver" in machine.cuda().mend
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 * 2**30, 8 * 2**30))
    assert machine.cuda().found == "A GPU, 3.0 GB of 8.0 GB free"

    def broken(index):
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    finding = machine.cuda()
    assert (finding.status, finding.found) == ("problem", "CUDA error: out of memory")


def test_missing_tagger_data_are_told_with_the_command_that_gets_them(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "tagger_folder", lambda: None)
    finding = files.tagger_data()
    assert "by rules" in finding.found
    assert (finding.mend, finding.status) == ("ovseg models pull nltk", "warning")
    monkeypatch.setattr(files, "tagger_folder", lambda: tmp_path)
    finding = files.tagger_data()
    assert (finding.found, finding.mend) == (str(tmp_path), None)


def test_the_cache_tells_its_size_and_whether_it_can_be_written(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    assert files.cache().found == f"{tmp_path / 'cache'}: empty yet"
    (tmp_path / "cache" / "texts").mkdir(parents=True)
    (tmp_path / "cache" / "texts" / "a").write_bytes(bytes(1_200_000))
    (tmp_path / "cache" / "newest").symlink_to(tmp_path / "cache" / "texts" / "a")
    (tmp_path / "cache" / "gone").symlink_to(tmp_path / "nowhere")
    assert files.cache().found == f"{tmp_path / 'cache'}: 1.2 MB"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "file"))
    finding = files.cache()
    assert finding.status == "problem"
    assert "OVSEG_CACHE" in finding.mend


def test_datasets_are_looked_for_below_ovseg_data(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("OVSEG_DATA", raising=False)
    assert files.datasets().status == "ok"
    monkeypatch.setenv("OVSEG_DATA", str(tmp_path / "none"))
    assert files.datasets().status == "problem"
    monkeypatch.setenv("OVSEG_DATA", str(tmp_path))
    assert files.datasets().found.startswith("0 of ")
    states = {"a": "here", "b": "not prepared", "c": "not here"}
    known = [SimpleNamespace(name=name, state=lambda at, s=s: s) for name, s in states.items()]
    monkeypatch.setattr(files, "known_datasets", lambda: known)
    finding = files.datasets()
    assert finding.found == f"1 of 3 in {tmp_path}: a; not prepared: b"
    assert (finding.status, finding.mend) == ("warning", "ovseg datasets prepare NAME")


def test_a_whole_run_directory_is_told(run) -> None:
    (finding,) = run_directory(run.path.parent, None)
    assert finding.found == f"{run.path}: 1 stages done; clip/base"
    assert finding.status == "ok"


def test_a_run_directory_is_a_problem_only_where_it_is_asked_for(tmp_path) -> None:
    assert run_directory(tmp_path, None)[0].status == "ok"
    (finding,) = run_directory(tmp_path, tmp_path / "elsewhere")
    assert finding.status == "problem"
    assert "no such folder" in finding.found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "base.safetensors: damaged"),
        ("no description", "base.json, which describes the model, is missing"),
        ("bad description", "base.json: damaged"),
        ("gone", "the manifest has it, and it is not there"),
    ],
)
def test_damaged_artifacts_are_told_with_the_command_that_makes_them(run, damage, message) -> None:
    path = run.artifact_path("clip", "base")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "gone":
        path.unlink()
    elif damage == "no description":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    finding = named(run_directory(run.path, run.path), "artifact clip/base")
    assert message in finding.found
    assert finding.mend == f"run 'ovseg train-clip --run {run.path} --restart'"
    assert finding.status == "problem"


@pytest.mark.parametrize("name", ["recipe.yaml", "manifest.json"])
def test_a_damaged_recipe_or_manifest_is_told(run, name) -> None:
    (run.path / name).write_text("{[")
    finding = named(run_directory(run.path, run.path), "run directory")
    assert finding.status == "problem"
    assert name in finding.found


@pytest.mark.parametrize(
    ("pid", "words"), [(2**22 + 5, "is gone"), (os.getpid(), "is writing")], ids=["gone", "alive"]
)
def test_a_lock_tells_whether_its_process_lives(run, pid, words) -> None:
    holder = {"pid": pid, "host": socket.gethostname()}
    (run.path / ".lock").write_text(json.dumps(holder))
    finding = named(run_directory(run.path, run.path), "lock")
    assert words in finding.found
    assert finding.status == "warning"


def test_what_a_killed_process_left_is_told(run) -> None:
    (run.path / "clip" / ".base.77.tmp.safetensors").write_bytes(bytes(10))
    finding = named(run_directory(run.path, run.path), "unfinished files")
    assert finding.found.startswith("1 unfinished files")
    assert [f.name for f in run_directory(run.path, run.path)] == [
        "run directory",
        "unfinished files",
    ]


def test_the_command_shows_all_and_fails_for_scripts_where_there_is_a_problem(
    monkeypatch, run
) -> None:
    checks = (machine.cpu, machine.memory)
    monkeypatch.setattr(doctor, "CHECKS", checks)
    good = CliRunner().invoke(app, ["doctor", "--run", str(run.path)])
    assert good.exit_code == 0
    assert "device cpu" in good.stdout
    run.artifact_path("clip", "base").unlink()
    bad = CliRunner().invoke(app, ["doctor", "--run", str(run.path), "--json"])
    assert bad.exit_code == 1
    assert set(json.loads(bad.stdout)[0]) == {"name", "found", "mend", "status"}
