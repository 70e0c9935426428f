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
from torch import Tensor, nn

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.run_parts import mask_encoder_of
from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.cosine_logits import Synonyms
from ovseg_cli.errors import CheckpointError, InputError, RecipeError, RunError, UsageError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.masq_examples import Batch
from ovseg_cli.stages.masq_options import MasqOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.tune_clip import tune_clip
from ovseg_cli.stages.tune_masq import masq_loss, tune_masq, tuned_share
from ovseg_cli.structures import TextEmbeddings

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


def test_variants_are_kept_side_by_side_by_the_names_that_the_recipe_gives(
    settings: Settings,
) -> None:
    tune_clip(settings)
    longer = changed(changed(settings, "tune_clip", steps=4), "artifacts", tuned="longer")
    assert tune_clip(longer).artifact == "clip/longer"
    assert tune_clip(settings).already_done
    assert tune_clip(longer).already_done
    clip = clip_of(settings.run, settings.recipe)
    for name, chosen in (("masq", settings), ("longer", longer)):
        encoder = mask_encoder_of(chosen.run, chosen.recipe, clip, device=torch.device("cpu"))
        tensors = settings.run.load_artifact("clip", name)[0]
        assert isinstance(encoder, MaskClassTokens)
        assert torch.equal(encoder.tuned_tensors()["mask_position"], tensors["mask_position"])
    other = settings.run.load_artifact("clip", "longer")[0]
    assert not torch.equal(artifact(settings)["mask_position"], other["mask_position"])


def test_a_share_of_nothing_keeps_clips_own_queries(settings: Settings) -> None:
    settings = changed(settings, "mask_encoder", init="clip")
    tune_clip(changed(settings, "tune_clip", tuned_share=0.0))
    clip = settings.run.load_artifact("clip", "base")[0]
    own = clip["visual.transformer.resblocks.0.attn.in_proj_weight"][:32]
    torch.testing.assert_close(artifact(settings)["query_projections.0.weight"], own)


@pytest.mark.parametrize("variant", ["v", "clip"])
def test_every_variant_is_saved_by_its_own_name_and_used_again(
    settings: Settings, variant: str
) -> None:
    settings = changed(settings, "mask_encoder", variant=variant)
    outcome = tune_clip(changed(settings, "tune_clip", augmentation="jitter"))
    assert outcome.artifact == f"clip/masq-{variant}"
    tensors, model = settings.run.load_artifact("clip", f"masq-{variant}")
    assert model["mask_encoder"] == {"variant": variant, "init": "released"}
    clip = clip_of(settings.run, settings.recipe)
    encoder = mask_encoder_of(settings.run, settings.recipe, clip, device=torch.device("cpu"))
    assert isinstance(encoder, MaskClassTokens)
    before = MaskClassTokens(clip, variant=variant).tuned_tensors()
    for name, value in encoder.tuned_tensors().items():
        assert torch.equal(value, tensors[name])
        assert not torch.equal(value, before[name])


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
        ("mask_encoder", {"variant": "freeze"}, r"\[mask_encoder\]: .* with nothing to tune"),
        ("tune_clip", {"mode": "rma"}, "tunes relative_mask_attention, .* has mask_class_tokens; "),
        ("tune_clip", {"tuned_share": 0.5}, r"\[tune_clip\] tuned_share: .*init to clip"),
        ("tune_clip", {"mode": "mask"}, r"\[tune_clip\] mode: there is no 'mask'; one of masq"),
        ("artifacts", {"tuned": "a/b"}, r"\[artifacts\] tuned: 'a/b' cannot be part of a file"),
        ("artifacts", {"tuned": "base"}, r"\[artifacts\] tuned: 'base' is the CLIP that is tuned"),
        ("tune_clip", {"stepps": 5}, r"\[tune_clip\] stepps: .*did you mean 'steps'"),
        ("tune_clip", {"batch_size": 0}, r"\[tune_clip\] batch_size"),
        ("tune_clip", {"augmentation": "jitter", "flip": False}, r"\[tune_clip\] flip: jitter"),
        ("classification", {"background": None}, r"\[classification\] background"),
    ],
)
def test_options_that_cannot_be_used_are_named(
    settings: Settings, section: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tune_clip(changed(settings, section, **options))


def test_a_batch_that_cannot_be_shared_out_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg_cli.training.distributed.world_size", lambda: 2)
    with pytest.raises(RecipeError, match=r"batch_size: 3 images cannot be shared out among 2"):
        tune_masq(changed(settings, "tune_clip", batch_size=3), "masq", "tune-clip-masq", "")


def test_a_share_may_be_taken_of_all_that_begins_as_clip(settings: Settings) -> None:
    settings = changed(settings, "mask_encoder", variant="v")
    tune_clip(changed(settings, "tune_clip", tuned_share=0.0))
    tensors = settings.run.load_artifact("clip", "masq-v")[0]
    own = settings.run.load_artifact("clip", "base")[0]
    own_values = own["visual.transformer.resblocks.0.attn.in_proj_weight"][64:]
    torch.testing.assert_close(tensors["value_projections.0.weight"], own_values)
    refused = changed(settings, "mask_encoder", variant="v", init="random")
    with pytest.raises(RecipeError, match="weights between random and tuned ones"):
        tune_clip(changed(refused, "tune_clip", tuned_share=0.5))


class Fixed(nn.Module):
    """Embeddings of one image's two masks, whatever the image."""

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        return torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


@pytest.mark.parametrize(("synonyms", "own"), [("mean", 0.5**0.5), ("max", 1.0)])
def test_a_class_of_several_words_is_learned_as_it_is_predicted(
    synonyms: Synonyms, own: float
) -> None:
    """Two words at right angles: their mean lies between them, the better of them is hit."""
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    loss = masq_loss(
        Fixed(),
        Batch(torch.zeros(1, 3, 4, 4), torch.ones(1, 2, 1).bool(), torch.tensor([[0, -100]])),
        text_embeddings=TextEmbeddings(texts, torch.tensor([0, 0, 1]), has_background=True),
        classification=Classification(scale=2.0, synonyms=synonyms),
        options=MasqOptions(loss_weight=3.0),
    )
    expected = 3 * torch.tensor(-2 * own).exp().log1p()
    torch.testing.assert_close(loss["classification"], expected)


def test_half_the_share_is_half_way() -> None:
    halfway = tuned_share({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.5)
    assert halfway["w"].item() == 2


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
    with pytest.raises(InputError, match="no seen class is left"):
        tune_clip(changed(settings, "dataset", root=str(copy)))
