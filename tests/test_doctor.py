import sys

import pytest

from ovseg_cli import doctor
from ovseg_cli.doctor import diagnose, matching_torchvision


def named(findings, name):
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_a_working_installation_needs_no_mend_for_what_runs(tmp_path) -> None:
    findings = diagnose(tmp_path)
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert all(finding.found for finding in findings)
    for name in ("python", "torch", "torchvision", "torchvision operators", "CLIP", "recipes"):
        assert named(findings, name).mend is None, named(findings, name)
    assert "cores" in named(findings, "device cpu").found


@pytest.mark.parametrize(
    ("torch_version", "series"),
    [("2.13.0+cpu", "0.28"), ("2.10.1", "0.25"), ("1.13.1", None), ("3.0.0", None)],
)
def test_torchvisions_series_follows_torchs(torch_version, series) -> None:
    assert matching_torchvision(torch_version) == series


def test_a_torchvision_of_another_torch_is_told_with_the_right_one(monkeypatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.29.2"}
    monkeypatch.setattr(doctor, "_installed", lambda package: versions.get(package, "1.0"))
    finding = named(diagnose(), "torchvision")
    assert finding.found == "0.29.2, made for another torch"
    assert "torchvision==0.28.*" in finding.mend


def test_what_is_missing_is_told_with_its_mend(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda package: None)
    findings = diagnose()
    assert named(findings, "torch").mend == "pip install ovseg"
    assert named(findings, "scipy").mend == "pip install scipy"


def test_a_package_that_does_not_import_is_a_finding_not_a_crash(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ovseg_cli.clip", None)
    finding = named(diagnose(), "CLIP")
    assert "ModuleNotFoundError" in finding.found
    assert finding.mend


def test_a_full_disk_is_told(monkeypatch, tmp_path) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    assert "free some space" in named(diagnose(tmp_path), "this folder").mend


def test_missing_tagger_data_are_told_with_the_command_that_gets_them(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "tagger_folder", lambda: None)
    finding = named(diagnose(tmp_path), "NLTK's tagger data")
    assert "by rules" in finding.found
    assert finding.mend == "ovseg models pull nltk"
    monkeypatch.setattr(doctor, "tagger_folder", lambda: tmp_path)
    finding = named(diagnose(tmp_path), "NLTK's tagger data")
    assert (finding.found, finding.mend) == (str(tmp_path), None)
