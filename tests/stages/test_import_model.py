"""What is refused, by one sentence and with nothing written, and what an import says."""

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from released_mask2former import SIZES, released_mask2former
from safetensors.torch import save_file
from tiny_architectures import random_clip, tiny_vit
from torch import Tensor

from ovseg_cli.checkpoints.origins import Origin
from ovseg_cli.checkpoints.released_files import read_released
from ovseg_cli.cli import main
from ovseg_cli.errors import CheckpointError, OvsegError, UsageError
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.import_model import import_model
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.predict import predict_command
from ovseg_cli.stages.session import Settings


class Payload:
    """What a pickle may do when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def state(**options) -> dict[str, Tensor]:
    torch.manual_seed(0)
    small = {**SIZES, "backbone": "resnet50", "backbone_width": 8, "encoder_layers": 1}
    return released_mask2former(Mask2Former(**{**small, "decoder_layers": 1, **options}))


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return state()


def import_it(file: Path, system: str = "mask2former", sets: tuple[str, ...] = (), **options):
    folder = file.parent / "run"
    architecture = tiny_vit(file.parent)
    overrides = [f"clip.architecture={architecture}", "clip.pretrained=null", "proposer.heads=4"]
    overrides += ["framing.short_side=64", *sets]
    return import_model(file, system, folder, overrides=overrides, shown=False, **options)


def refused(file: Path, system: str = "mask2former", **options) -> str:
    """The sentence; nothing but the file is left."""
    with pytest.raises(OvsegError) as found:
        import_it(file, system, **options)
    assert found.value.exit_code == 2
    left = {path.name for path in file.parent.iterdir() if not path.name.startswith("tiny-")}
    assert left <= {file.name}
    message = str(found.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def huge_safetensors() -> bytes:
    header = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "is a web page .* in a browser"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
        (b"https://drive.google.com/file/d/1\n", "is a text file and no weights"),
        (bytes(range(256)), "neither safetensors nor"),
        (huge_safetensors(), "not a readable safetensors file"),
        (struct.pack("<Q", 2**60) + b"{", "not a readable safetensors file"),
        (pickle.dumps({"model": {"a": np.zeros(2)}})[:-9], "cannot be read as a pickle"),
        (pickle.dumps([1]), "is no dictionary of arrays"),
    ],
    ids=[
        "empty",
        "web_page",
        "lfs_pointer",
        "text",
        "bytes",
        "huge_shape",
        "huge_header",
        "cut_pickle",
        "list",
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, content, sentence):
    file = tmp_path / "model_final.pth"
    file.write_bytes(content)
    assert re.search(sentence, refused(file))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_payload_is_refused_by_name_and_never_run(tmp_path, new):
    file, made = tmp_path / "model.pth", tmp_path / "made"
    torch.save({"model": Payload(made)}, file, _use_new_zipfile_serialization=new)
    assert f"holds {os.mkdir.__module__}.mkdir beside its tensors" in refused(file)
    assert not made.exists()


def test_a_payload_in_a_pickle_of_arrays_is_refused(tmp_path):
    file, made = tmp_path / "model_final.pkl", tmp_path / "made"
    file.write_bytes(pickle.dumps({"model": Payload(made)}))
    assert "mkdir" in refused(file)
    assert not made.exists()


def test_a_file_that_is_cut_off_is_refused(tmp_path, released):
    whole = tmp_path / "whole.pth"
    torch.save({"model": released}, whole)
    content = whole.read_bytes()
    whole.unlink()
    for part in (200, len(content) // 2, len(content) - 10):
        file = tmp_path / "model.pth"
        file.write_bytes(content[:part])
        assert "is cut off or damaged" in refused(file)


def test_an_archive_that_grows_is_refused_before_it_does(tmp_path):
    file = tmp_path / "model.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(50_000_000))
    assert file.stat().st_size < 100_000
    assert "is a compressed archive and no file of weights" in refused(file)


def test_a_torchscript_program_is_refused(tmp_path):
    file = tmp_path / "ViT-B-32.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ViT-B-32/data.pkl", b"\x80\x02}.")
        archive.writestr("ViT-B-32/constants.pkl", b"\x80\x02).")
    assert "is a TorchScript program and no file of weights" in refused(file, "ovseg")


def test_a_shape_that_no_memory_holds_is_refused(tmp_path, released):
    file = tmp_path / "model.pth"
    name = "sem_seg_head.predictor.decoder_norm.weight"
    torch.save({"model": {**released, name: torch.zeros(1).expand(10**6, 10**6)}}, file)
    assert "mask_decoder.norm.weight is 1000000 x 1000000 and not 32" in refused(file)


def test_other_shapes_and_missing_tensors_are_counted_and_the_first_named(tmp_path, released):
    file, norm = tmp_path / "model.safetensors", "sem_seg_head.predictor.decoder_norm."
    broken = {name: tensor for name, tensor in released.items() if "mask_embed" not in name}
    save_file({**broken, f"{norm}bias": torch.zeros(7)}, file)
    message = refused(file)
    gone = len(released) - len(broken)
    assert f"{gone} of {len(released) - 1} tensors missing: mask_decoder.mask_head.0" in message
    assert f"and {gone - 3} more" in message
    assert "1 of other shapes: mask_decoder.norm.bias is 7 and not 32" in message


@pytest.mark.parametrize(
    ("names", "looks"),
    [
        (["backbone.clip_model.visual.conv1.weight"], "fcclip"),
        (["masqclip.visual.proj", "sem_seg_head.predictor.query_feat.weight"], "masqclip"),
        (["maskclip.visual.proj"], "maskclip"),
        (["IPCLIP.proj", "clip_adapter.clip_model.visual.proj"], "maft"),
        (["clip_adapter.clip_model.visual.proj"], "ovseg"),
    ],
)
def test_a_file_of_another_system_says_whose_it_is(tmp_path, names, looks):
    file = tmp_path / "model.pth"
    torch.save({"model": {name: torch.zeros(2) for name in names}}, file)
    assert f"import it with --system {looks}" in refused(file)


def test_a_first_stage_is_not_taken_for_the_second(tmp_path, released):
    file = tmp_path / "model.pth"
    torch.save({"model": released}, file)
    message = refused(file, "masqclip")
    assert "is no MasQCLIP, it looks like Mask2Former" in message


def test_tensors_of_no_known_layout_are_refused(tmp_path):
    file = tmp_path / "model.pth"
    torch.save({"fc.weight": torch.zeros(2)}, file)
    assert "is of no released layout that is known here" in refused(file)
    torch.save({"model": {"epoch": 3}}, file)
    assert "is no dictionary of tensors by name" in refused(file)
    with pytest.raises(CheckpointError, match=r"missing.pth: no such file"):
        read_released(tmp_path / "missing.pth")


def test_a_wrong_checksum_and_a_full_folder_are_refused(tmp_path, released):
    file = tmp_path / "model.pth"
    torch.save({"model": released}, file)
    assert "its sha256 is" in refused(file, origin=Origin(sha256=64 * "0"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists; give a new or empty folder"):
        import_it(file)
    with pytest.raises(UsageError, match="--system sam: no such layout"):
        import_model(file, "sam", tmp_path / "other")


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(UsageError, match="is the folder that you are in"):
        import_model(tmp_path / "model.pth", "mask2former", Path("."))


def test_what_the_user_says_comes_before_what_the_file_tells(tmp_path, released):
    file = tmp_path / "model.pth"
    torch.save({n: t for n, t in released.items() if "class_embed" not in n}, file)
    message = refused(file, sets=("proposer.queries=9",))
    assert f"mask_decoder.query_features.weight is {SIZES['queries']} x 32 and not 9" in message
    scored = Run(import_it(file, sets=("classification.object_score=true",)).folder).recipe()
    assert scored.section("classification")["object_score"] is True
    shutil.rmtree(tmp_path / "run")
    unscored = Run(import_it(file).folder).recipe()
    assert unscored.section("classification")["object_score"] is False


def test_a_clip_alone_says_that_it_finds_no_masks(tmp_path):
    file = tmp_path / "clip.pt"
    torch.save({"state_dict": random_clip(tiny_vit(tmp_path))}, file)
    report = import_it(file, "ovseg", sets=("proposer.heads=8",))
    assert set(report.artifacts) == {"clip/base"}
    assert not report.finds_masks
    assert "no proposer in it" in report.notes[0]


def test_what_is_recorded(tmp_path, released):
    file = tmp_path / "model.pth"
    torch.save({"model": released}, file)
    (tmp_path / "run").mkdir()
    report = import_it(file, origin=Origin(url="https://example.org/model.pth"))
    run = Run(report.folder)
    origin = json.loads((run.path / "origin.json").read_text())
    assert origin["url"] == "https://example.org/model.pth"
    assert origin["licence"]["name"] == "MIT"
    assert len(origin["sha256"]) == 64
    named = origin["key_map"]["proposals/released"]
    assert named["backbone.layer1.0.conv1.weight"] == "backbone.res2.0.conv1.weight"
    assert set(named.values()) | set(origin["unused"]) == set(released)
    (record,) = run.manifest()
    assert record["artifact"] == "proposals/released"
    assert run.recipe().section("proposer")["backbone_width"] == 8
    assert run.newest("proposals", model_name="mask2former") == "released"
    tensors, _ = run.load_artifact("proposals", "released")
    for ours, theirs in named.items():
        assert torch.equal(tensors[ours], released[theirs])


def test_the_command_says_the_licence_and_what_to_do_next(tmp_path, released, monkeypatch, capsys):
    file, folder = tmp_path / "model.pth", tmp_path / "run"
    torch.save({"model": released}, file)
    sets = ["--set", f"clip.architecture={tiny_vit(tmp_path)}", "--set", "clip.pretrained=null"]
    command = ["ovseg", "models", "import", str(file), "--system", "mask2former"]
    arguments = [*command, "--run", str(folder), *sets, "--set", "proposer.heads=4", "--json"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["artifacts"] == {"proposals/released": len(released) - 1}
    assert "licence of these weights: MIT, commercial use is allowed" in shown.err


def test_an_imported_run_directory_predicts_and_is_scored(tmp_path, released):
    file, data = tmp_path / "model.pth", tmp_path / "shapes"
    torch.save({"model": released}, file)
    report = import_it(file)
    make_shapes(
        data, ShapesOptions(train=1, val=1, test=1, pairs_easy=1, pairs_crop=1, pairs_window=1)
    )
    photo = str(sorted((data / "test").iterdir())[0])
    found = predict_command(
        [photo], "beer,wine", model=str(report.folder), folder=tmp_path / "out", overlays=False
    )
    assert found.images == 1
    assert found.error() is None
    run = Run(report.folder)
    changed = {"dataset": {"root": str(data)}, "framing": {"short_side": 128}, "targets": {}}
    sections = {**run.recipe().sections, **changed}
    scored = evaluate(Settings(run, Recipe("imported", sections=sections)))
    assert 0 <= scored.results["panoptic"]["all"]["pq"] <= 1
    assert scored.folder.is_relative_to(run.path / "evaluation")
