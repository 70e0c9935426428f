"""MasQ-Tuning as a stage: from a run directory with CLIP and proposals to clip/masq."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_cli.checkpoints.run_parts import clip_of, mask_encoder_of
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import CheckpointError, InputError, RecipeError, RunError, UsageError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.tune_clip import tune_clip
from ovseg_cli.stages.tune_masq import (
    IGNORED,
    MasqExamples,
    MasqOptions,
    seen_labels,
    seen_vocabulary,
    square,
    tuned_share,
)
from ovseg_cli.structures import FramedImage, Proposals, Vocabulary

CLIP = {
    "embed_dim": 16,
    "image_size": 64,
    "patch_size": 16,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "text_width": 16,
    "text_heads": 2,
    "token_width": 4,
    "context_length": 8,
}
PROPOSER = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 32,
    "decoder_layers": 1,
    "feedforward_dim": 32,
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(seed=1, **COUNTS))
    return folder


@pytest.fixture
def settings(tmp_path: Path, shapes: Path) -> Settings:
    run = Run(tmp_path / "run")
    torch.manual_seed(0)
    tensors = build_small_clip(**CLIP).state_dict()
    run.save_artifact("clip", "base", tensors, {"architecture": "small", "options": CLIP})
    run.save_artifact("proposals", "teacher", Mask2Former(**PROPOSER).state_dict(), {})
    run.record(StageRecord("train-proposals", "x", 1.0, artifact="proposals/teacher"))
    sections: dict[str, dict[str, Any]] = {
        "dataset": {"root": str(shapes)},
        "proposer": {"name": "mask2former", **PROPOSER},
        "mask_encoder": {"name": "mask_class_tokens", "variant": "q"},
        "tune_clip": {"steps": 3, "batch_size": 2, "image_size": 128},
    }
    return Settings(run, Recipe("test", seed=0, sections=sections))


def changed(settings: Settings, section: str, **options: Any) -> Settings:
    sections = dict(settings.recipe.sections)
    sections[section] = {**sections.get(section, {}), **options}
    return replace(settings, recipe=replace(settings.recipe, sections=sections))


def artifact(settings: Settings) -> dict[str, Tensor]:
    return settings.run.load_artifact("clip", "masq")[0]


def test_the_artifact_holds_what_was_tuned_and_names_what_it_sits_on(settings: Settings) -> None:
    outcome = tune_clip(settings)
    tensors, model = settings.run.load_artifact("clip", "masq")
    assert outcome.artifact == "clip/masq"
    assert outcome.results["parameters"] == 32 + 2 * (32 * 32 + 32)
    assert outcome.results["parameters"] == sum(value.numel() for value in tensors.values())
    assert model["base"] == "base"
    assert model["mask_encoder"] == {"variant": "q", "init": "released"}
    json.dumps(model)
    fresh = MaskClassTokens(ClipEncoder(build_small_clip(**CLIP)), **model["mask_encoder"], seed=0)
    assert not torch.equal(fresh.query_projections[0].weight, tensors["query_projections.0.weight"])
    fresh.load_tuned_tensors(tensors, source="clip/masq")


def test_the_same_settings_give_the_same_weights_and_another_seed_others(
    settings: Settings,
) -> None:
    tune_clip(settings)
    first = artifact(settings)
    tune_clip(replace(settings, restart=True))
    assert all(torch.equal(value, artifact(settings)[name]) for name, value in first.items())
    tune_clip(replace(settings, recipe=replace(settings.recipe, seed=1)))
    assert not torch.equal(first["mask_position"], artifact(settings)["mask_position"])


def test_tuning_is_not_done_twice(settings: Settings) -> None:
    assert not tune_clip(settings).already_done
    assert tune_clip(settings).already_done


def test_two_processes_tune_what_one_tunes_with_the_same_global_batch(settings: Settings) -> None:
    """The weighted cross-entropy too, where one image has more masks than the other."""
    settings = changed(settings, "tune_clip", masks="both", lr=0.01, overlap_threshold=0.2)
    tune_clip(settings)
    one = artifact(settings)
    settings.run.artifact_path("clip", "masq").unlink()
    settings.run.save_recipe(settings.recipe)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "tune-clip", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(settings.run.path)}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=120
    )
    two = artifact(settings)
    fresh = MaskClassTokens(ClipEncoder(build_small_clip(**CLIP)), variant="q", seed=0)
    for name, value in one.items():
        moved = (value - fresh.tuned_tensors()[name]).abs().max()
        assert name == "mask_position" or moved > 0.005
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)


def test_a_share_of_nothing_keeps_clips_own_queries(settings: Settings) -> None:
    settings = changed(settings, "mask_encoder", init="clip")
    tune_clip(changed(settings, "tune_clip", tuned_share=0.0))
    clip = settings.run.load_artifact("clip", "base")[0]
    own = clip["visual.transformer.resblocks.0.attn.in_proj_weight"][:32]
    torch.testing.assert_close(artifact(settings)["query_projections.0.weight"], own)


@pytest.mark.parametrize("masks", ["ground_truth", "both"])
def test_annotated_masks_can_be_classified_too(settings: Settings, masks: str) -> None:
    tune_clip(changed(settings, "tune_clip", masks=masks))
    assert torch.isfinite(artifact(settings)["mask_position"]).all()


def test_an_unknown_mode_is_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match="--mode mask: there is only masq"):
        tune_clip(settings, mode="mask")


def test_a_run_without_a_clip_says_which_command_makes_it(settings: Settings) -> None:
    settings.run.artifact_path("clip", "base").unlink()
    with pytest.raises(RunError, match=r"clip/base.*ovseg train-clip"):
        tune_clip(settings)


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("mask_encoder", {"variant": "freeze"}, r"\[mask_encoder\]: this mode tunes mask_class_tokens"),
        ("tune_clip", {"tuned_share": 0.5}, r"\[tune_clip\] tuned_share: .*mask_encoder.init to clip"),
        ("tune_clip", {"stepps": 5}, r"\[tune_clip\] stepps: .*did you mean 'steps'"),
        ("tune_clip", {"batch_size": 0}, r"\[tune_clip\] batch_size"),
        ("classification", {"background": None}, r"\[classification\] background"),
    ],
)
def test_options_that_cannot_be_used_are_named(
    settings: Settings, section: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tune_clip(changed(settings, section, **options))


class HalfImage:
    """Proposes the left half, and nothing."""

    calls = 0

    def propose(self, framed: FramedImage) -> Proposals:
        self.calls += 1
        logits = torch.full((2, 16, 16), -5.0)
        logits[0, :, :8] = 5
        return Proposals(logits, framed.frame, torch.ones(2))


def examples(shapes: Path, **options: Any) -> MasqExamples:
    clip = ClipEncoder(build_small_clip(**CLIP))
    encoder = MaskClassTokens(clip, variant="q")
    settings = MasqOptions(**{"image_size": 128, **options})
    dataset = CocoDataset(shapes, "train")
    return MasqExamples(dataset, HalfImage(), encoder, options=settings, seed=3)


def test_a_batch_is_a_function_of_the_step_alone(shapes: Path) -> None:
    first, second = examples(shapes), examples(shapes)
    first.batch_at(0)
    for own, other in zip(first.batch_at(5), second.batch_at(5), strict=True):
        assert torch.equal(own, other)


def test_every_image_comes_once_an_epoch(shapes: Path) -> None:
    some = examples(shapes)
    for epoch in range(3):
        drawn = [some.drawn(epoch * 4 + place)[0] for place in range(4)]
        assert sorted(drawn) == [0, 1, 2, 3]


def test_proposals_are_made_once_and_kept_exactly(shapes: Path) -> None:
    some = examples(shapes)
    first = some.example(0, False)
    again = some.example(0, False)
    assert some.proposer.calls == 1
    assert all(torch.equal(own, other) for own, other in zip(first, again, strict=True))
    visible = first[1].view(2, 4, 4)
    assert visible[0].all(dim=0).tolist() == [True, True, False, False]
    assert not visible[1].any()


def test_annotated_masks_keep_their_own_labels(shapes: Path) -> None:
    some = examples(shapes, masks="both")
    sample = some.dataset[0]
    image, visible, labels = some.example(0, False)
    mirrored, turned, _ = some.example(0, True)
    assert labels[2:].tolist() == some.label_of[sample.labels].tolist()
    assert torch.equal(mirrored, image.flip(-1))
    grid = visible[2:].unflatten(1, (4, 4))
    assert torch.equal(turned[2:].unflatten(1, (4, 4)), grid.flip(-1))


def test_a_seen_class_keeps_its_order_and_an_unseen_one_has_no_label() -> None:
    names = ("a", "b", "c")
    vocabulary = Vocabulary(names, tuple((n,) for n in names), (True,) * 3, (True, False, True))
    background, labels = seen_labels(vocabulary)
    assert background == 2
    assert labels.tolist() == [0, IGNORED, 1]
    assert seen_vocabulary(vocabulary).names == ("a", "c")
    assert seen_vocabulary(replace(vocabulary, seen=())).names == names


def test_half_the_share_is_half_way() -> None:
    halfway = tuned_share({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.5)
    assert halfway["w"].item() == 2


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(square(image, 8, False), image.float())
    assert square(image, 4, True).shape == (3, 4, 4)


@pytest.mark.gpu
def test_a_gpu_tunes_to_about_the_same_weights(settings: Settings) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tune_clip(settings)
    expected = artifact(settings)
    tune_clip(replace(settings, device=torch.device("cuda"), restart=True))
    for name, value in artifact(settings).items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=0)


def test_what_was_tuned_for_an_earlier_clip_is_refused(settings: Settings) -> None:
    device = torch.device("cpu")
    tune_clip(settings)
    clip = clip_of(settings.run, settings.recipe)
    mask_encoder_of(settings.run, settings.recipe, clip, device=device)
    tensors, model = settings.run.load_artifact("clip", "base")
    changed_tensors = {name: value + 1 for name, value in tensors.items()}
    settings.run.save_artifact("clip", "base", changed_tensors, model)
    with pytest.raises(CheckpointError, match="tuned for an earlier clip/base"):
        mask_encoder_of(settings.run, settings.recipe, clip, device=device)
    assert not tune_clip(settings).already_done
    mask_encoder_of(settings.run, settings.recipe, clip, device=device)


def test_an_image_size_that_the_proposer_cannot_take_is_named(settings: Settings) -> None:
    odd = changed(settings, "tune_clip", image_size=100)
    with pytest.raises(RecipeError, match=r"\[tune_clip\] image_size: 100 is not a multiple of 32"):
        tune_clip(odd)


def test_tuning_puts_words_into_the_templates_of_prediction(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = ClipEncoder.encode_text

    def noted(clip: ClipEncoder, texts: list[str]) -> Tensor:
        asked.extend(texts)
        return encode(clip, texts)

    monkeypatch.setattr(ClipEncoder, "encode_text", noted)
    options = {**CLIP, "context_length": 32}
    tensors = build_small_clip(**options).state_dict()
    settings.run.save_artifact(
        "clip", "base", tensors, {"architecture": "small", "options": options}
    )
    tune_clip(changed(settings, "vocabulary", templates="vild"))
    assert "a photo of a background." in asked
    assert "background" not in asked


def test_a_dataset_without_seen_classes_is_refused(
    settings: Settings, shapes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    path = copy / "annotations/vocabulary.json"
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({**vocabulary, "seen": [False] * len(vocabulary["names"])}))
    with pytest.raises(InputError, match="no annotated masks of seen classes to tune on"):
        tune_clip(changed(settings, "dataset", root=str(copy)))
