"""`export`: one ONNX file that finds, without PyTorch, what the segmenter finds."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext
from typer.testing import CliRunner
from untrained_run import untrained_run

from ovseg_cli.classification import Classification
from ovseg_cli.cli import app
from ovseg_cli.errors import RunError, UsageError
from ovseg_cli.export import METADATA_KEY, WordedSegmenter, onnx_file, write_onnx
from ovseg_cli.export.comparison import agreement, mask_ious
from ovseg_cli.export.onnx_file import run_onnx
from ovseg_cli.mask_encoders import MaskClassTokens, MaskedCrops, MaskPooling
from ovseg_cli.proposers import ClipMask2Former, FolderMasks, Mask2Former
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages import export as stage
from ovseg_cli.stages.export import export
from ovseg_cli.structures import FramedImage, Proposals
from ovseg_cli.vocabulary.labels import parse_labels

LABELS = "star,couch/sofa/settee,grass:stuff"
SIZE = (64, 96)
SMALL = {
    "hidden_dim": 32, "mask_dim": 16, "queries": 4, "heads": 2, "encoder_layers": 1,
    "encoder_feedforward_dim": 16, "decoder_layers": 1, "feedforward_dim": 16,
}  # fmt: skip
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

needs_onnx = pytest.mark.skipif(
    bool(onnx_file.missing_packages()), reason='needs pip install "ovseg[export]"'
)


def images(count: int, size: tuple[int, int] = SIZE) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return list((255 * pixels).to(torch.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def exported(run: Path) -> stage.Exported:
    file = run.parent / "model.onnx"
    image = run.parent / "photo.jpg"
    Image.fromarray(images(1)[0].permute(1, 2, 0).numpy()).save(image)
    return export(file, LABELS, run=run, size=SIZE, images=[image])


def clip_segmenter() -> Segmenter:
    """FC-CLIP's two classifiers on one convolutional tower."""
    clip = tiny_convnext()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        proposer = ClipMask2Former(clip=clip, **SMALL).eval()
    classification = Classification(
        scale="clip", background=None, synonyms="max", object_score=False, ensemble="geometric"
    )
    return Segmenter(
        proposer,
        MaskPooling(clip),
        clip,
        classification=classification,
        training_vocabulary=parse_labels("star"),
    )


@needs_onnx
def test_a_file_finds_what_the_segmenter_finds(run: Path, exported: stage.Exported) -> None:
    segmenter, vocabulary = Segmenter.from_run(run), parse_labels(LABELS)
    (image,) = images(1)
    (masks, probabilities) = run_onnx(exported.file, [image])[0]
    framed = segmenter.frame(image)
    with torch.no_grad():
        proposals = segmenter.propose(framed)
        encoded, expected = segmenter.classify(framed, proposals, vocabulary)
    torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(masks, encoded.mask_logits, atol=1e-2, rtol=1e-3)
    found = segmenter.infer(
        replace(encoded, mask_logits=masks), probabilities, proposals, vocabulary
    )
    whole = segmenter.predict(image, vocabulary)
    assert (found.panoptic == whole.panoptic).float().mean() > 0.99


@needs_onnx
def test_a_file_says_what_it_is_and_how_it_was_checked(exported: stage.Exported) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.file)
    about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert about["names"] == ["star", "couch", "grass"]
    assert about["is_thing"] == [True, True, False]
    assert about["size"] == list(SIZE)
    assert about["inference"]["object_threshold"] == 0.0
    assert about["check"] == exported.agreement.as_json()
    assert about["check"]["mask_iou"] > 0.99
    assert about["check"]["moved"] < 1e-3
    assert [tuple(one.shape) for one in session.get_inputs()] == [(1, 3, *SIZE)]
    assert [tuple(one.shape) for one in session.get_outputs()] == [(5, 16, 24), (5, 3)]
    assert not [path for path in exported.file.parent.iterdir() if ".tmp" in path.name]


@needs_onnx
def test_the_readmes_lines_run_a_file(exported: stage.Exported, monkeypatch, capsys) -> None:
    (lines,) = re.findall(r"```python\n(import json\n.*?onnxruntime.*?)```", README, re.DOTALL)
    assert "ovseg_cli" not in lines
    monkeypatch.chdir(exported.file.parent)
    exec(compile(lines, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5  # this run shows every mask
    assert all(line.split()[0] in ("star", "couch", "grass") for line in printed)
    assert len(list(exported.file.parent.glob("mask-*.png"))) == 5


@needs_onnx
def test_two_classifiers_on_one_tower_and_words_of_a_class(tmp_path: Path) -> None:
    segmenter = clip_segmenter()
    module = WordedSegmenter(segmenter, parse_labels(LABELS), (64, 64))
    file, two = tmp_path / "model.onnx", images(2, (64, 64))
    found = write_onnx(module, file, two, {})
    assert (found.images, found.same_class) == (2, 1.0)
    assert found.mask_iou > 0.99
    assert found.moved < 1e-3
    expected = module(two[1][None])[1]
    torch.testing.assert_close(run_onnx(file, two)[1][1], expected, atol=1e-3, rtol=0)


@needs_onnx
def test_a_file_that_does_something_else_is_not_written(
    run: Path, exported: stage.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, file = Segmenter.from_run(run), tmp_path / "model.onnx"
    module = WordedSegmenter(segmenter, parse_labels(LABELS), SIZE)
    file.write_bytes(b"earlier")
    monkeypatch.setattr(onnx_file, "_program", lambda *_: Copied(exported.file))
    write_onnx(module, file, images(2), {})
    assert file.stat().st_size > 1000
    file.write_bytes(b"earlier")
    with torch.no_grad():
        segmenter.proposer.mask_decoder.query_features.weight.neg_()
    with pytest.raises(UsageError, match=r"model\.onnx: not written, its masks overlap the segm"):
        write_onnx(module, file, images(2), {})
    assert file.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class Copied:
    """The program of a file that is there already."""

    def __init__(self, file: Path) -> None:
        import onnx_ir

        self.model = onnx_ir.load(file)

    def save(self, path: Path, external_data: bool) -> None:
        import onnx_ir

        onnx_ir.save(self.model, path)


@needs_onnx
def test_a_part_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    class Looks(Mask2Former):
        def propose(self, framed: FramedImage) -> Proposals:
            if framed.pixels.sum() > 0:
                framed = replace(framed, pixels=framed.pixels + 1)
            return super().propose(framed)

    segmenter = Segmenter.from_run(run)
    segmenter.proposer = Looks(**SMALL, backbone="resnet10", backbone_width=8)
    module = WordedSegmenter(segmenter, parse_labels(LABELS), SIZE)
    with pytest.raises(UsageError, match="Looks and MaskClassTokens: PyTorch cannot write them"):
        write_onnx(module, tmp_path / "model.onnx", images(1), {})
    assert not list(tmp_path.iterdir())


def test_agreement_by_hand() -> None:
    ours = torch.tensor([[[1.0, 1, 1, -1]], [[-1, -1, -1, -1]], [[1, 1, 1, 1]]])
    theirs = torch.tensor([[[5.0, 1, -1, 1]], [[-2, -1, -1, -1]], [[1, 2, 3, 4]]])
    ious = mask_ious(ours, theirs)
    assert ious[[0, 2]].tolist() == [0.5, 1.0]
    assert ious[1].isnan()
    a = torch.tensor([[0.5, 0.3], [0.2, 0.1], [0.6, 0.4]])
    b = torch.tensor([[0.3, 0.5], [0.2, 0.1], [0.6, 0.4]])
    found = agreement([(ours, a)], [(theirs, b)])
    assert (found.images, found.masks, found.mask_iou, found.lowest_mask_iou) == (1, 2, 0.75, 0.5)
    assert found.moved == pytest.approx(0.2 / 3)
    assert found.same_class == pytest.approx(2 / 3)
    assert "0.750, below 0.95" in str(found.problem)
    assert "0.067 of its class probabilities" in str(replace(found, mask_iou=1.0).problem)
    assert replace(found, mask_iou=1.0, moved=0.0).problem is None
    assert "mask_iou" in found.as_json()


def test_figures_that_are_no_numbers_do_not_pass() -> None:
    ours = (torch.ones(1, 2, 2), torch.ones(1, 2))
    found = agreement([ours], [(torch.ones(1, 2, 2), torch.full((1, 2), torch.nan))])
    assert found.problem is not None
    empty = (-torch.ones(1, 2, 2), torch.ones(1, 2))
    assert "no mask to compare" in str(agreement([empty], [empty]).problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"proposer": FolderMasks(root=str(Path(__file__).parent))},
            "proposer folder: it reads masks from files",
        ),
        ({"mask_encoder": MaskedCrops(tiny_clip())}, "masked_crops: which crops it cuts depends"),
        ({"in_vocabulary": MaskedCrops(tiny_clip())}, "masked_crops: which crops it cuts depends"),
    ],
)
def test_parts_that_no_graph_does_the_work_of(change: dict[str, Any], message: str) -> None:
    clip = tiny_clip()
    parts = {
        "proposer": Mask2Former(**SMALL, backbone="resnet10", backbone_width=8),
        "mask_encoder": MaskClassTokens(clip),
        **change,
    }
    segmenter = Segmenter(clip=clip, **parts)
    with pytest.raises(UsageError, match=message):
        WordedSegmenter(segmenter, parse_labels(LABELS), SIZE)


def test_sizes_that_would_be_padded_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"--size 60,200: .* multiples of 32; give 64,192"):
        WordedSegmenter(Segmenter.from_run(run), parse_labels(LABELS), (60, 200))


@needs_onnx
def test_a_file_that_is_there_is_left_alone(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"model\.onnx: exists; give another name, or --overwrite"):
        export(file, LABELS, run=run)
    assert file.read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        export(tmp_path / "model", LABELS, run=run)


@needs_onnx
def test_a_damaged_origin_is_named(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run")
    (run / "origin.json").write_text("{")
    with pytest.raises(RunError, match=r"origin\.json: damaged .*; import the weights again"):
        export(tmp_path / "model.onnx", LABELS, run=run)


def test_a_missing_extra_is_told(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stage, "missing_packages", lambda: ("onnx", "onnxruntime"))
    with pytest.raises(UsageError, match=r'onnx, onnxruntime not installed; .* "ovseg.export."'):
        export(tmp_path / "model.onnx", LABELS, run=run)


@pytest.mark.parametrize("size", ["64", "64x64", "0,64", "a,b", "64,64,3"])
def test_a_size_of_the_command_is_height_and_width(size: str) -> None:
    outcome = CliRunner().invoke(app, ["export", "m.onnx", "--labels", "cat", "--size", size])
    assert isinstance(outcome.exception, UsageError)
    assert str(outcome.exception).startswith(f"--size {size}: give HEIGHT,WIDTH")


def test_a_usual_size_is_the_recipes(run: Path) -> None:
    segmenter = Segmenter.from_run(run)
    assert stage._usual_size(segmenter) == (32, 32)
    segmenter.framing = replace(segmenter.framing, short_side=810)
    assert stage._usual_size(segmenter) == (800, 800)


def test_pixels_are_resized_as_the_segmenter_resizes() -> None:
    (image,) = images(1)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((50, 40), Image.BILINEAR)
    assert np.array_equal(stage.resized(image, (40, 50)).permute(1, 2, 0).numpy(), picture)
