"""What the catalogue knows is fetched, imported and found again; nothing without consent."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants
from small_catalogue import MODEL, entries, small_catalogue, use

from ovseg_cli.checkpoints.catalogue import catalogue_entry
from ovseg_cli.errors import CheckpointError, InputError, UsageError
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages import import_entry
from ovseg_cli.stages.models_here import (
    missing_parts,
    model_folder,
    model_record,
    model_records,
)
from ovseg_cli.stages.pull_model import pull_model


@pytest.fixture
def server(tmp_path):
    with small_catalogue(tmp_path) as running:
        yield running


def yes(question):
    return True


def downloads(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "downloads").rglob("*.*"))


def test_a_zoos_file_becomes_a_model_that_answers_to_its_name(server, tmp_path):
    assert not model_record(MODEL)["here"]
    folder = pull_model(MODEL, consent=yes)
    assert folder == model_folder(MODEL) == tmp_path / "cache" / "models" / MODEL
    assert Segmenter.from_run(Run(folder)).proposer is not None
    assert downloads(tmp_path) == []
    origin = json.loads((folder / "origin.json").read_text())
    assert (origin["url"], origin["entry"]) == (server.url, MODEL)
    assert origin["sha256"] == hashlib.sha256(server.content).hexdigest()
    record = model_record(MODEL)
    assert (record["here"], record["place"]) == (True, str(folder))


def test_what_is_here_is_neither_asked_for_nor_fetched_again(server):
    folder = pull_model(MODEL, consent=yes)
    assert pull_model(MODEL) == folder
    assert len(server.asked) == 1


def test_the_question_says_size_host_and_licence(server):
    questions = []
    with pytest.raises(UsageError, match="not downloaded, as you said"):
        pull_model(MODEL, consent=lambda question: bool(questions.append(question)))
    assert "about 2.0 MB" in questions[0]
    assert "127.0.0.1" in questions[0]
    assert "licence MIT" in questions[0]
    assert server.asked == []


def test_where_nobody_can_be_asked_nothing_is_fetched(server, tmp_path):
    with pytest.raises(UsageError, match=r"would download about 2.0 MB.*add --yes"):
        pull_model(MODEL)
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_broken_download_is_gone_on_with(server, tmp_path):
    server.etag, server.breaks_after = '"a"', 100_000
    with pytest.raises(InputError, match=r"broke off.*0.1 MB are here already"):
        pull_model(MODEL, consent=yes)
    assert downloads(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    assert not model_folder(MODEL).exists()
    pull_model(MODEL, consent=yes)
    assert server.asked[1] == ("bytes=100000-", '"a"')


def test_another_content_than_the_catalogues_is_refused(server, tmp_path, monkeypatch):
    content = entries(server.url)
    content[1]["sha256"] = "0" * 64
    use(content, tmp_path, monkeypatch)
    with pytest.raises(InputError, match="another SHA-256 than the catalogue says"):
        pull_model(MODEL, consent=yes)
    assert downloads(tmp_path) == []


def test_a_file_that_is_no_model_is_not_kept(server, tmp_path):
    server.content = server.content[:1000]
    with pytest.raises(CheckpointError, match=r"file\.bin"):
        pull_model(MODEL, consent=yes)
    assert downloads(tmp_path) == []
    assert not model_folder(MODEL).exists()


def test_a_download_whose_import_was_stopped_is_not_fetched_again(server, monkeypatch):
    real = import_entry.import_entry

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_entry, "import_entry", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull_model(MODEL, consent=yes)
    monkeypatch.setattr(import_entry, "import_entry", real)
    pull_model(MODEL, consent=yes)
    assert len(server.asked) == 1


def test_ctrl_c_keeps_the_part_and_ends_with_130(server, tmp_path):
    """In a real process, while the server makes it wait."""
    server.stalls_after = 1_000_000
    code = (
        "import signal, sys\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
        "from ovseg_cli.checkpoints import catalogue\n"
        f"catalogue.CATALOGUE = Path({str(tmp_path / 'catalogue.yaml')!r})\n"
        f"sys.argv = ['ovseg', 'models', 'pull', {MODEL!r}, '--yes']\n"
        "from ovseg_cli.cli import main\nmain()\n"
    )
    part = tmp_path / "cache" / "downloads" / MODEL / "file.bin.part"
    deadline = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as pull:
        while time.monotonic() < deadline and not (part.is_file() and part.stat().st_size):
            time.sleep(0.05)
        pull.send_signal(signal.SIGINT)
        _, error = pull.communicate(timeout=60)
    assert pull.returncode == 130
    assert "Traceback" not in error
    assert part.stat().st_size > 0


def test_what_no_program_can_fetch_says_where_it_is_and_what_follows(server):
    with pytest.raises(InputError, match=r"https://drive.example/1 in a browser") as told:
        pull_model("by-hand", consent=yes)
    assert "ovseg models import weights.pth --name by-hand" in str(told.value)


def test_a_file_fetched_by_hand_is_imported_by_its_name_with_its_own_licence(
    server, tmp_path, monkeypatch
):
    content = entries(server.url)
    content[2]["system"] = "mask2former"  # as MaskCLIP's proposals are
    use(content, tmp_path, monkeypatch)
    report = import_entry.import_entry(tmp_path / "model_final.pkl", "by-hand")
    assert report.folder == model_folder("by-hand")
    assert (report.licence, report.commercial) == ("CC BY-NC 4.0, NOT for commercial use", False)
    origin = json.loads((report.folder / "origin.json").read_text())
    assert (origin["entry"], origin["url"]) == ("by-hand", "https://drive.example/1")
    assert origin["licence"]["commercial"] is False
    assert pull_model("by-hand") == report.folder


def test_what_is_imported_already_is_said(server, tmp_path):
    pull_model(MODEL, consent=yes)
    with pytest.raises(UsageError, match=f"{MODEL}: is imported already; delete"):
        import_entry.import_entry(tmp_path / "model_final.pkl", MODEL)


@pytest.mark.parametrize(
    ("clip", "lacks"),
    [("{}", []), ("{architecture: RN50-quickgelu, pretrained: openai}", ["RN50-quickgelu:openai"])],
    ids=["its_own", "open_clips"],
)
def test_of_a_model_that_is_here_no_clip_is_asked_for_that_it_does_not_use(
    server, tmp_path, monkeypatch, clip, lacks
):
    content = entries(server.url)
    content[2]["clip"] = "RN50-quickgelu:openai"
    use(content, tmp_path, monkeypatch)
    entry = catalogue_entry("by-hand")
    assert [part.name for part in missing_parts(entry)] == ["by-hand", "RN50-quickgelu:openai"]
    model_folder("by-hand").mkdir(parents=True)
    (model_folder("by-hand") / "recipe.yaml").write_text(f"clip: {clip}\n")
    assert [part.name for part in missing_parts(entry)] == lacks


def test_what_is_no_released_file_is_not_imported(server, tmp_path):
    with pytest.raises(UsageError, match="no released file"):
        import_entry.import_entry(tmp_path / "model_final.pkl", "tiny")


def test_a_clip_is_left_alone_where_the_hub_is_to_be(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        pull_model("RN50-quickgelu:openai", consent=yes)


def test_the_box_needs_no_download(server):
    assert (pull_model("tiny") / "recipe.yaml").is_file()


def test_the_list_has_every_entry_with_the_way_to_it(server):
    records = {record["name"]: record for record in model_records()}
    assert list(records) == ["tiny", MODEL, "by-hand", "RN50-quickgelu:openai"]
    assert records["tiny"]["here"]
    assert records[MODEL]["get"] == f"ovseg models pull {MODEL}"
    assert "clip.architecture=RN50-quickgelu" in records["RN50-quickgelu:openai"]["use"]
    json.dumps(records)
