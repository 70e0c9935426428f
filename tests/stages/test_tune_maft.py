import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.classification import Classification
from ovseg_cli.clip.parameter_groups import NAMES
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord, file_hash
from ovseg_cli.stages.maft_examples import Batch, MaftExamples, class_overlaps
from ovseg_cli.stages.maft_options import MaftOptions
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.pseudo_labels import PseudoLabels
from ovseg_cli.stages.session import Settings, dataset_of
from ovseg_cli.stages.tune_clip import tune_clip
from ovseg_cli.stages.tune_maft import maft_losses
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings

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
TRAINED = ("transformer.resblocks.", "ln_post.")


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
        "mask_encoder": {
            "name": "image_proposals",
            "tuned": "maft",
            "start_layer": 1,
            "input_size": 96,
        },
        "classification": {"background": None, "scale": 100},
        "tune_clip": {
            "mode": "maft",
            "steps": 3,
            "batch_size": 2,
            "image_size": 128,
            "augmentation": "squash",
            "lr": 1.0e-3,
        },
    }
    return Settings(run, Recipe("test", seed=0, sections=sections))


def changed(settings: Settings, section: str, **options: Any) -> Settings:
    sections = dict(settings.recipe.sections)
    sections[section] = {**sections.get(section, {}), **options}
    return replace(settings, recipe=replace(settings.recipe, sections=sections))


def framed(image: Tensor) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    return FramedImage(image, Frame(size, size, size, align_corners=True))


def artifact(settings: Settings, name: str = "maft") -> dict[str, Tensor]:
    return settings.run.load_artifact("clip", name)[0]


def clips(settings: Settings) -> dict[str, Tensor]:
    tensors = settings.run.load_artifact("clip", "base")[0]
    return {name: t for name, t in tensors.items() if name.startswith("visual.")}


def examples_of(
    settings: Settings, *, proposer: bool = True, **options: Any
) -> tuple[MaftExamples, ImageProposals]:
    clip = clip_of(settings.run, settings.recipe)
    encoder = ImageProposals(clip, start_layer=1, input_size=96, tuned="maft")
    section = {"image_size": 128, "batch_size": 2, "augmentation": "squash"}
    torch.manual_seed(0)
    found = Mask2Former(**PROPOSER).eval() if proposer else None
    dataset = dataset_of(settings, "train", part="seen")
    chosen = MaftOptions(**{**section, **options})
    return MaftExamples(dataset, found, encoder, options=chosen, seed=0), encoder


def test_the_artifact_is_a_tower_of_which_attention_and_norms_have_moved(
    settings: Settings,
) -> None:
    outcome = tune_clip(settings)
    tensors, own = artifact(settings), clips(settings)
    assert outcome.artifact == "clip/maft"
    assert tensors.keys() == own.keys()
    moved = {name for name, t in tensors.items() if not torch.equal(t, own[name])}
    parts = {name.removeprefix("visual.") for name in moved}
    assert all(part.startswith(TRAINED) and ".mlp." not in part for part in parts)
    in_blocks = {part.split(".")[3] for part in parts if part.startswith("transformer")}
    assert in_blocks == {"attn", "ln_1", "ln_2"}
    assert "ln_post.weight" in parts
    parameters = 2 * (4 * 32 * 32 + 4 * 32 + 4 * 32) + 64
    assert outcome.results["parameters"] == parameters
    assert set(outcome.results["losses"]) == {"mask_aware", "distillation"}


def test_the_same_settings_give_the_same_weights_and_another_seed_others(
    settings: Settings,
) -> None:
    tune_clip(settings)
    first = artifact(settings)
    assert tune_clip(settings).already_done
    tune_clip(replace(settings, restart=True))
    assert all(torch.equal(value, artifact(settings)[name]) for name, value in first.items())
    tune_clip(replace(settings, recipe=replace(settings.recipe, seed=1)))
    assert not torch.equal(
        first["visual.ln_post.weight"], artifact(settings)["visual.ln_post.weight"]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"masks": "ground_truth", "covers": "segment"},
        {"augmentation": "jitter", "iou_at": "mask", "distance": "kl"},
        {"objective": "cross_entropy", "masks": "ground_truth", "distillation_weight": 0},
        {"mask_aware_weight": 0, "batch_size": 1},
        {"frozen": [], "distance": "l2"},
    ],
)
def test_every_way_of_tuning_moves_the_tower(settings: Settings, options: dict[str, Any]) -> None:
    outcome = tune_clip(changed(settings, "tune_clip", **options))
    tensors, own = artifact(settings), clips(settings)
    assert not torch.equal(tensors["visual.ln_post.weight"], own["visual.ln_post.weight"])
    unfrozen = not torch.equal(tensors["visual.class_embedding"], own["visual.class_embedding"])
    assert unfrozen == ("frozen" in options)
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert ("distillation" in outcome.results["losses"]) == ("distillation_weight" not in options)


def test_two_processes_tune_what_one_tunes_with_the_same_global_batch(settings: Settings) -> None:
    tune_clip(settings)
    one = artifact(settings)
    settings.run.artifact_path("clip", "maft").unlink()
    settings.run.save_recipe(settings.recipe)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "tune-clip", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(settings.run.path)}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=120
    )
    own = clips(settings)
    for name, value in artifact(settings).items():
        apart = (value - one[name]).abs().float()
        assert apart.mean() < 1e-5  # not the greatest: AdamW makes much of the least gradients
        if "ln_2" in name:
            assert (value - own[name]).abs().mean() > 2e-4


def test_tuning_can_begin_with_what_another_tuning_made(settings: Settings) -> None:
    tune_clip(settings)
    again = changed(settings, "artifacts", tuned="further")
    again = changed(again, "tune_clip", start="maft", lr=0.0)
    tune_clip(again)
    for name, value in artifact(settings, "further").items():
        torch.testing.assert_close(value, artifact(settings)[name])
    record = settings.run.manifest()[-1]
    assert record["inputs"]["clip/maft"] == file_hash(settings.run.artifact_path("clip", "maft"))


def test_tuning_does_not_begin_with_what_was_made_for_an_earlier_clip(settings: Settings) -> None:
    tune_clip(changed(settings, "tune_clip", steps=1))
    torch.manual_seed(1)
    model = {"architecture": "small", "options": CLIP}
    settings.run.save_artifact("clip", "base", build_small_clip(**CLIP).state_dict(), model)
    again = changed(settings, "artifacts", tuned="further")
    with pytest.raises(CheckpointError, match="tuned for an earlier clip/base"):
        tune_clip(changed(again, "tune_clip", start="maft"))


def test_crowds_are_annotated_where_unseen_classes_are_looked_for(settings: Settings) -> None:
    asked: list[Tensor] = []

    class FindsNothing:
        def found(self, *given: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(given[-1])
            return given[-1][:0], torch.zeros(0, dtype=torch.long)

    examples, _ = examples_of(settings, proposer=False)
    sample = examples.images.augmented(0, 0)
    sample = replace(sample, is_crowd=torch.ones_like(sample.is_crowd))
    examples.pseudo_labels = cast(PseudoLabels, FindsNothing())
    examples.examined(framed(sample.image.float()), sample)
    assert torch.equal(asked[0], sample.masks)


def test_what_is_said_of_an_image_is_kept_and_is_what_would_be_said_anew(
    settings: Settings,
) -> None:
    examples, encoder = examples_of(settings)
    first, again = examples.squashed_example(1), examples.squashed_example(1)
    assert len(examples._kept) == 1
    fresh = examples_of(settings)[0].squashed_example(1)
    for found in (again, fresh):
        assert torch.equal(first.image, found.image)
        assert torch.equal(first.visible, found.visible)
        assert torch.equal(first.overlaps.iou, found.overlaps.iou)
    torch.testing.assert_close(first.taught, encoder.teacher(first.image[None])[0])


def test_an_image_is_mirrored_together_with_its_masks(settings: Settings) -> None:
    """The masks that patches see lie where the shown image was augmented to show them."""
    examples, _ = examples_of(settings, proposer=False, covers="segment")
    shown = [examples.squashed_example(position) for position in range(8)]
    assert {mirrored for _, mirrored in examples._kept} == {True, False}
    for position, example in enumerate(shown):
        sample = examples.images.augmented(examples.images.index_at(position), position)
        jittered = examples.examined(framed(sample.image.float()), sample)
        torch.testing.assert_close(example.image, jittered.image, atol=1.0, rtol=0)
        assert (example.visible != jittered.visible).float().mean() < 0.01


def test_annotated_masks_cover_themselves(settings: Settings) -> None:
    for covers in ("class", "segment"):
        examples, _ = examples_of(settings, proposer=False, covers=covers)
        overlaps = examples.squashed_example(0).overlaps
        best = overlaps.iou.max(1).values
        torch.testing.assert_close(best, torch.ones_like(best))
        if covers == "class":
            torch.testing.assert_close(overlaps.iou, torch.eye(len(overlaps.labels)))


def test_of_a_classs_masks_the_best_covered_one_counts() -> None:
    """Two masks of class 3 and one of class 1, a quarter of the image each; two sure proposals."""
    quarters = torch.zeros(3, 4, 4, dtype=torch.bool)
    quarters[0, :2, :2] = quarters[1, 2:, 2:] = quarters[2, :2, 2:] = True
    sure = torch.where(torch.stack([quarters[1], quarters[0] | quarters[2]]), 30.0, -30.0)
    found = class_overlaps(sure, quarters, torch.tensor([3, 3, 1]), at=(4, 4))
    assert found.labels.tolist() == [1, 3]
    torch.testing.assert_close(found.iou, torch.tensor([[0.0, 0.5], [1.0, 0.5]]))


def test_padding_takes_no_part(settings: Settings) -> None:
    examples, encoder = examples_of(settings, proposer=False, covers="segment")
    batch = examples.batch_at(0)
    counts = [overlap.iou.shape[1] for overlap in batch.overlaps]
    assert batch.visible.shape[:2] == (2, max(counts))
    assert min(counts) < max(counts)
    texts = TextEmbeddings(torch.randn(30, 16), torch.arange(30))

    def losses(batch: Batch) -> dict[str, Tensor]:
        return maft_losses(
            encoder,
            batch,
            text_embeddings=texts,
            classification=Classification(background=None),
            options=MaftOptions(),
        )

    more = torch.ones(2, 3, batch.visible.shape[2], dtype=torch.bool)
    padded = batch._replace(visible=torch.cat([batch.visible, more], dim=1))
    expected, found = losses(batch), losses(padded)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_an_image_without_proposals_teaches_distillation_alone(settings: Settings) -> None:
    examples, encoder = examples_of(settings)
    (example,) = [examples.squashed_example(0)]
    nothing = class_overlaps(
        torch.zeros(0, 4, 4), torch.ones(1, 8, 8, dtype=torch.bool), torch.tensor([2]), at=(8, 8)
    )
    batch = Batch(example.image[None], example.visible[None, :0], (nothing,), example.taught[None])
    losses = maft_losses(
        encoder,
        batch,
        text_embeddings=TextEmbeddings(torch.randn(5, 16), torch.arange(5)),
        classification=Classification(background=None),
        options=MaftOptions(),
    )
    assert losses["mask_aware"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_a_batch_is_learned_by_heart(settings: Settings) -> None:
    """The mean loss of the first steps and of the last ones of the same few images."""
    settings = changed(settings, "classification", scale=10)  # an untrained CLIP is not so sure
    options = {"masks": "ground_truth", "batch_size": 4, "lr": 1.0e-2, "gradient_clip": 0}
    settings = changed(settings, "tune_clip", **options)
    first = tune_clip(changed(settings, "tune_clip", steps=1)).results["losses"]
    last = tune_clip(changed(settings, "tune_clip", steps=20)).results["losses"]
    assert last["mask_aware"] < 0.9 * first["mask_aware"]


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("mask_encoder", {"tuned": "none"}, r"\[mask_encoder\]: .* with nothing to tune"),
        ("tune_clip", {"mode": "masq"}, "tunes mask_class_tokens, .* has image_proposals"),
        ("tune_clip", {"frozen": ["convs"]}, r"\[tune_clip\] frozen"),
        ("tune_clip", {"distance": "l3"}, r"\[tune_clip\] distance: expected one of smooth_l1"),
        (
            "tune_clip",
            {"image_size": 100},
            r"\[tune_clip\] image_size: 100 is not a multiple of 32",
        ),
        (
            "tune_clip",
            {"mask_aware_weight": 0, "distillation_weight": 0},
            r"\[tune_clip\] mask_aware_weight and distillation_weight",
        ),
        (
            "tune_clip",
            {"pseudo_labels": True, "masks": "ground_truth"},
            r"\[tune_clip\] pseudo_labels: nobody annotated the masks of unseen classes",
        ),
        ("tune_clip", {"frozen": list(NAMES)}, r"\[tune_clip\] frozen: .* nothing to learn"),
        ("tune_clip", {"start": "maft"}, r"\[tune_clip\] start: maft is what this tuning makes"),
        ("mask_encoder", {"start_layer": 2}, r"\[mask_encoder\] start_layer"),
        ("artifacts", {"tuned": "base"}, r"\[artifacts\] tuned: 'base' is the CLIP that is tuned"),
    ],
)
def test_options_that_cannot_be_used_are_named(
    settings: Settings, section: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tune_clip(changed(settings, section, **options))
