"""Tuning CLIP to masked crops as a stage: from pairs to clip/ovseg-*, in every mode and order."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mined_folder import write_pairs
from torch import Tensor, nn
from torch.nn import functional as F
from untrained_run import untrained_run

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.run_parts import mask_encoder_of
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError, InputError, RecipeError, RunError
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.ovseg_examples import Batch
from ovseg_cli.stages.ovseg_options import OvsegOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.tune_clip import of_mode, tune_clip
from ovseg_cli.stages.tune_ovseg import CropsAndScale, crop_losses

COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
CPU = torch.device("cpu")
CROPS = {"name": "masked_crops", "region": "box", "fill": "mean"}
PROMPTS = 2 * 16 * 32  # depth, patches, channels


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(seed=1, **COUNTS))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def settings(tmp_path: Path, shapes: Path) -> Settings:
    """A CLIP of random weights and six mined pairs; there are no proposals."""
    run = Run(untrained_run(tmp_path / "run"))
    run.artifact_path("proposals", "teacher").unlink()
    write_pairs(run.path / "pairs", tmp_path / "images")
    sections: dict[str, dict[str, Any]] = {
        "dataset": {"root": str(shapes)},
        "mask_encoder": {**CROPS, "tuned": "mpt", "prompts": 2},
        "tune_clip": {"mode": "mpt", "steps": 3, "batch_size": 4, "warmup": 0, "lr": 1e-2},
    }
    return Settings(run, replace(run.recipe(), sections=sections))


def changed(settings: Settings, section: str, **options: Any) -> Settings:
    sections = dict(settings.recipe.sections)
    sections[section] = {**sections.get(section, {}), **options}
    return replace(settings, recipe=replace(settings.recipe, sections=sections))


def in_mode(settings: Settings, mode: str, *, prompts: int, start: str | None = None) -> Settings:
    tuned = changed(settings, "mask_encoder", tuned=mode, prompts=prompts)
    return changed(tuned, "tune_clip", mode=mode, start=start)


def tensors_of(settings: Settings, name: str) -> dict[str, Tensor]:
    return settings.run.load_artifact("clip", name)[0]


def moved(settings: Settings, name: str) -> set[str]:
    """Which parts of an artifact are not what they were before any tuning."""
    untuned = {n: t for n, t in tensors_of(settings, "base").items()}
    clip = clip_of(settings.run, settings.recipe)
    prompts = MaskedCrops(clip, region="box", tuned="mpt", prompts=2).mask_prompts
    assert prompts is not None
    untuned["mask_prompts.prompts"] = prompts().detach()
    found = tensors_of(settings, name)
    return {n.split(".")[0] for n, t in found.items() if not torch.equal(t, untuned[n])}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("mode", "prompts", "parts"),
    [
        ("mpt", 2, {"mask_prompts"}),
        ("finetune", 0, {"visual"}),
        ("joint", 2, {"mask_prompts", "visual"}),
    ],
)
def test_a_mode_tunes_its_parts_and_prediction_uses_them(
    settings: Settings, mode: str, prompts: int, parts: set[str]
) -> None:
    tower = clip_of(settings.run, settings.recipe).model.visual
    expected = (PROMPTS if prompts else 0) + ("visual" in parts) * count(tower)
    settings = in_mode(settings, mode, prompts=prompts)
    outcome = tune_clip(settings, mode=mode)
    tensors, model = settings.run.load_artifact("clip", f"ovseg-{mode}")
    assert outcome.artifact == f"clip/ovseg-{mode}"
    assert outcome.results["parameters"] == expected
    assert outcome.results["pairs"] == 6
    assert outcome.results["nouns"] == 3
    assert set(outcome.results["losses"]) == {"image_to_text", "text_to_image"}
    assert {name.split(".")[0] for name in tensors} == parts == moved(settings, f"ovseg-{mode}")
    assert (model["mode"], model["base"], model["start"]) == (mode, "base", None)
    assert model["logit_scale"] != pytest.approx(math.log(1 / 0.07))  # learned, too
    clip = clip_of(settings.run, settings.recipe)
    encoder = mask_encoder_of(settings.run, settings.recipe, clip, device=CPU)
    assert isinstance(encoder, MaskedCrops)
    assert all(torch.equal(t, tensors[n]) for n, t in encoder.tuned_tensors().items())
    assert tune_clip(settings, mode=mode).already_done


def test_prompts_after_the_tower_leave_it_as_it_was_tuned(settings: Settings) -> None:
    tune_clip(in_mode(settings, "finetune", prompts=0))
    after = in_mode(settings, "mpt", prompts=2, start="ovseg-finetune")
    outcome = tune_clip(after)
    assert outcome.results["parameters"] == PROMPTS
    first, second = tensors_of(settings, "ovseg-finetune"), tensors_of(settings, "ovseg-mpt")
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert moved(settings, "ovseg-mpt") == {"visual", "mask_prompts"}
    records = [r for r in settings.run.manifest() if r["artifact"] == "clip/ovseg-mpt"]
    assert "clip/ovseg-finetune" in records[-1]["inputs"]
    assert not any(name.startswith("proposals/") for name in records[-1]["inputs"])


def test_the_tower_after_prompts_leaves_them_as_they_were_tuned(settings: Settings) -> None:
    tune_clip(in_mode(settings, "mpt", prompts=2))
    tune_clip(in_mode(settings, "finetune", prompts=2, start="ovseg-mpt"))
    first, second = tensors_of(settings, "ovseg-mpt"), tensors_of(settings, "ovseg-finetune")
    assert torch.equal(second["mask_prompts.prompts"], first["mask_prompts.prompts"])
    assert moved(settings, "ovseg-finetune") == {"visual", "mask_prompts"}


def test_a_tower_keeps_clips_statistics(settings: Settings) -> None:
    """Those of batch norms: neither the batch's size nor how it is shared out may matter."""
    tune_clip(in_mode(settings, "finetune", prompts=0))
    before, after = tensors_of(settings, "base"), tensors_of(settings, "ovseg-finetune")
    statistics = [name for name in after if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_what_a_tuning_begins_with_decides_its_result(settings: Settings) -> None:
    tune_clip(in_mode(settings, "finetune", prompts=0))
    chosen = in_mode(settings, "mpt", prompts=2, start="ovseg-finetune")
    tune_clip(chosen)
    longer = changed(in_mode(settings, "finetune", prompts=0), "tune_clip", steps=4)
    tune_clip(longer)
    assert not tune_clip(chosen).already_done


@pytest.mark.parametrize("pairs", ["ground_truth", "both"])
def test_annotated_masks_are_learned_by_the_names_of_their_classes(
    settings: Settings, pairs: str
) -> None:
    outcome = tune_clip(changed(settings, "tune_clip", pairs=pairs))
    mined = 6 if pairs == "both" else 0
    assert outcome.results["pairs"] > mined + 4
    assert moved(settings, "ovseg-mpt") == {"mask_prompts"}


def test_prompts_are_not_tuned_by_crops_without_blank_patches(settings: Settings) -> None:
    tune_clip(changed(settings, "tune_clip", masked=False))
    assert moved(settings, "ovseg-mpt") == set()


def test_the_text_tower_reads_every_noun_once_and_never_in_training(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = ClipEncoder.encode_text

    def noted(clip: ClipEncoder, texts: list[str]) -> Tensor:
        asked.extend(texts)
        return encode(clip, texts)

    monkeypatch.setattr(ClipEncoder, "encode_text", noted)
    tune_clip(settings)
    assert sorted(asked) == ["bird", "cat", "dog"]
    tune_clip(changed(settings, "tune_clip", steps=4))
    assert len(asked) == 3


def batch(nouns: list[int]) -> Batch:
    source = torch.Generator().manual_seed(0)
    count = len(nouns)
    crops = torch.rand(count, 3, 32, 32, generator=source) * 255
    return Batch(crops, torch.ones(count, 32, 32, dtype=torch.bool), torch.tensor(nouns))


def losses(settings: Settings, nouns: list[int], duplicates: str) -> tuple[float, Tensor, Tensor]:
    clip = clip_of(settings.run, settings.recipe)
    module = CropsAndScale(MaskedCrops(clip, region="box", tuned="finetune"), math.log(20))
    texts = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    shown = batch(nouns)
    found = crop_losses(module, shown, texts=texts, duplicates=duplicates)
    crops, scale = module(shown.crops, shown.masks)
    logits = scale * F.normalize(crops, dim=-1) @ F.normalize(texts[nouns], dim=-1).T
    return float(sum(found.values()).detach()), logits.detach(), torch.arange(len(nouns))


def test_as_released_equal_nouns_are_negatives_in_clips_own_loss(settings: Settings) -> None:
    found, logits, target = losses(settings, [0, 1, 0, 2], "negatives")
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_equal_nouns_are_no_negatives(settings: Settings) -> None:
    """By hand: a crop is told from other nouns alone, a noun's crops share its target."""
    found, logits, _ = losses(settings, [0, 1, 0, 2], "positives")
    columns = [0, 1, 3]  # one a noun
    to_text = F.cross_entropy(logits[:, columns], torch.tensor([0, 1, 0, 2]))
    to_crop = logits.T[columns].log_softmax(1)
    of_nouns = [(to_crop[0, 0] + to_crop[0, 2]) / 2, to_crop[1, 1], to_crop[2, 3]]
    expected = (to_text - torch.stack(of_nouns).mean()) / 2
    assert found == pytest.approx(float(expected), rel=1e-5)
    alike, logits, _ = losses(settings, [1, 1, 1, 1], "positives")
    shared = -logits[:, 0].log_softmax(0).mean() / 2  # a crop has nothing to be told from
    assert alike == pytest.approx(float(shared), rel=1e-5)


def test_without_equal_nouns_both_losses_are_the_same(settings: Settings) -> None:
    ours, released = (losses(settings, [2, 0, 1], way)[0] for way in ("positives", "negatives"))
    assert ours == pytest.approx(released, rel=1e-6)


@pytest.mark.parametrize(("begin", "expected"), [(9.0, 100.0), (-2.0, 1.0), (1.0, math.e)])
def test_the_temperature_stays_within_clips_bounds(
    settings: Settings, begin: float, expected: float
) -> None:
    clip = clip_of(settings.run, settings.recipe)
    module = CropsAndScale(MaskedCrops(clip, region="box"), begin)
    shown = batch([0])
    scale = module(shown.crops, shown.masks)[1].detach()
    assert float(scale) == pytest.approx(expected, rel=1e-5)


def test_matrices_decay_and_prompts_have_a_rate_of_their_own(settings: Settings) -> None:
    clip = clip_of(settings.run, settings.recipe)
    options = OvsegOptions(lr=1.0, weight_decay=0.5, prompt_lr=7.0)

    def groups(tuned: Any, prompts: int) -> dict[str, tuple[float, float]]:
        module = CropsAndScale(MaskedCrops(clip, region="box", tuned=tuned, prompts=prompts), 1.0)
        names = {id(p): name for name, p in module.named_parameters()}
        return {
            names[id(p)]: (group["lr"], group["weight_decay"])
            for group in options.optimizer(module).param_groups
            for p in group["params"]
        }

    joint = groups("joint", 2)
    assert joint["encoder.visual.conv1.0.weight"] == (1.0, 0.5)
    assert joint["encoder.visual.positional_embedding"] == (1.0, 0.5)
    assert joint["encoder.visual.ln_pre.weight"] == (1.0, 0.0)
    assert joint["encoder.visual.class_embedding"] == (1.0, 0.0)
    assert joint["logit_scale"] == (1.0, 0.0)
    assert joint["encoder.mask_prompts.prompts"] == (7.0, 0.0)
    alone = {"encoder.mask_prompts.prompts": (7.0, 0.0), "logit_scale": (7.0, 0.0)}
    assert groups("mpt", 2) == alone


def test_two_processes_tune_what_one_tunes_with_the_same_global_batch(settings: Settings) -> None:
    """Equal nouns stand in different processes, too."""
    settings = in_mode(settings, "joint", prompts=2)
    tune_clip(settings)
    one = tensors_of(settings, "ovseg-joint")
    settings.run.artifact_path("clip", "ovseg-joint").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "tune-clip", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(settings.run.path)}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=240
    )
    two = tensors_of(settings, "ovseg-joint")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (
            "mask_encoder",
            {"tuned": "finetune", "prompts": 0},
            "tuned: finetune, and .* is mpt",
        ),
        ("tune_clip", {"mode": "finetune"}, r"tuned: mpt, and \[tune_clip\] mode is finetune"),
        ("tune_clip", {"batch_size": 1}, r"\[tune_clip\] batch_size"),
        ("tune_clip", {"duplicates": "both"}, r"\[tune_clip\] duplicates"),
        ("tune_clip", {"captions": 0}, r"\[tune_clip\] captions"),
        ("mask_encoder", {"name": "mask_pooling"}, "this mode tunes masked_crops"),
    ],
)
def test_options_that_cannot_be_used_are_named(
    settings: Settings, section: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tune_clip(changed(settings, section, **options))


def test_a_mode_before_the_recipes_last_one_begins_with_clip(settings: Settings) -> None:
    last = in_mode(settings, "mpt", prompts=2, start="ovseg-finetune")
    assert tune_clip(last, mode="finetune").artifact == "clip/ovseg-finetune"
    assert moved(settings, "ovseg-finetune") == {"visual"}
    assert tune_clip(last, mode="mpt").artifact == "clip/ovseg-mpt"
    assert moved(settings, "ovseg-mpt") == {"visual", "mask_prompts"}
    joint = of_mode(last.recipe, "joint")
    assert joint.section("mask_encoder")["prompts"] == 2
    assert joint.section("tune_clip")["start"] is None


def test_random_prompts_are_not_kept_through_a_fine_tuning(settings: Settings) -> None:
    with pytest.raises(RecipeError, match="fine-tuning leaves them as they are"):
        tune_clip(in_mode(settings, "finetune", prompts=2))


def test_a_beginning_that_is_missing_or_does_not_fit_is_named(settings: Settings) -> None:
    with pytest.raises(RunError, match=r"clip/ovseg-finetune.*tune-clip --mode finetune"):
        tune_clip(in_mode(settings, "mpt", prompts=2, start="ovseg-finetune"))
    tune_clip(settings)
    with pytest.raises(CheckpointError, match="prompts is 0; set it to their depth"):
        tune_clip(in_mode(settings, "finetune", prompts=0, start="ovseg-mpt"))
    settings.run.save_artifact("clip", "masq", {"mask_position": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="neither an image tower nor mask prompts"):
        tune_clip(in_mode(settings, "mpt", prompts=2, start="masq"))


def test_a_beginning_that_was_tuned_for_an_earlier_clip_is_refused(settings: Settings) -> None:
    tune_clip(in_mode(settings, "finetune", prompts=0))
    tensors, model = settings.run.load_artifact("clip", "base")
    other = {name: value + 1 for name, value in tensors.items()}
    settings.run.save_artifact("clip", "base", other, model)
    with pytest.raises(CheckpointError, match=r"ovseg-finetune.*: tuned for an earlier clip/base"):
        tune_clip(in_mode(settings, "mpt", prompts=2, start="ovseg-finetune"))


def test_a_tuning_does_not_begin_with_its_own_result(settings: Settings) -> None:
    again = in_mode(settings, "mpt", prompts=2, start="ovseg-mpt")
    with pytest.raises(RecipeError, match="ovseg-mpt is what this tuning makes"):
        tune_clip(again)
    tune_clip(settings)
    outcome = tune_clip(changed(again, "artifacts", tuned="longer"))
    assert outcome.artifact == "clip/longer"
    before, after = tensors_of(settings, "ovseg-mpt"), tensors_of(settings, "longer")
    assert not torch.equal(before["mask_prompts.prompts"], after["mask_prompts.prompts"])


def test_without_pairs_the_command_that_mines_them_is_named(settings: Settings) -> None:
    (settings.run.path / "pairs" / "statistics.json").unlink()
    with pytest.raises(InputError, match="ovseg mine-captions"):
        tune_clip(settings)
