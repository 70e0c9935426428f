"""Training of FC-CLIP's proposer: classes by words, on a CLIP that is frozen or not."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.proposer_parts import proposer_of, training_vocabulary
from ovseg_cli.checkpoints.run_parts import mask_encoder_of
from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable
from ovseg_cli.clip.small import build_small_convnext_clip
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import CheckpointError, RecipeError, RunError
from ovseg_cli.losses.set_criterion import SetCriterion
from ovseg_cli.proposers import ClipMask2Former
from ovseg_cli.recipe import Recipe, build, load_recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.distill import distill
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.proposal_examples import Batch, ProposalExamples
from ovseg_cli.stages.proposal_losses import proposal_losses
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.train_proposals import train_proposals
from ovseg_cli.structures import TextEmbeddings
from ovseg_cli.training.signals import Interrupted

CPU = torch.device("cpu")
CLIP = {
    "embed_dim": 16,
    "image_size": 64,
    "depths": (1, 1, 1, 1),
    "dims": (8, 8, 16, 16),
    "text_width": 16,
    "text_heads": 2,
    "token_width": 8,
}
PROPOSER = {
    "name": "clip_mask2former",
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 32,
    "decoder_layers": 1,
    "feedforward_dim": 32,
}
LEARNING = {**PROPOSER, "trainable_clip": True}
TRAINING = {
    "steps": 2,
    "batch_size": 2,
    "augmentation": "squash",
    "image_size": 64,
    "backbone_weights": "none",
    "points": 32,
    "cached_images": 4,
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
UNREAD = ("head.", "trunk.head.")  # no level depends on them
TOWERS = pytest.mark.parametrize("proposer", [PROPOSER, LEARNING], ids=["frozen", "trainable"])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


def save_clip(folder: Path, seed: int = 0) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = build_small_convnext_clip(**CLIP)
    model = {"architecture": "small_convnext", "options": CLIP}
    Run(folder).save_artifact("clip", "base", clip.state_dict(), model)


def settings(
    folder: Path, shapes: Path, proposer: dict[str, Any] = PROPOSER, **training: Any
) -> Settings:
    if not Run(folder).has_artifact("clip", "base"):
        save_clip(folder)
    sections = {
        "dataset": {"root": str(shapes)},
        "proposer": proposer,
        "mask_encoder": {"name": "mask_pooling"},
        "train_proposals": {**TRAINING, **training},
    }
    return Settings(Run(folder), Recipe("a test", 0, sections))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Run(folder).load_artifact("proposals", "teacher")[0]


def test_the_artifact_holds_what_was_trained_and_rebuilds_it(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    outcome = train_proposals(chosen)
    assert outcome.results["losses"].keys() == {"class", "mask", "dice"}
    tensors = weights(tmp_path)
    assert not any(name.startswith("dense.") for name in tensors)
    assert outcome.results["parameters"] == sum(value.numel() for value in tensors.values())
    clip = clip_of(chosen.run, chosen.recipe)
    proposer = proposer_of(chosen.run, chosen.recipe, device=CPU, clip=clip)
    assert isinstance(proposer, ClipMask2Former)
    assert proposer.dense.tower.visual is clip.model.visual
    assert torch.equal(proposer.void_embedding.weight, tensors["void_embedding.weight"])


def test_the_frozen_clip_is_bit_for_bit_what_it_was(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    before = {k: v.clone() for k, v in clip_of(chosen.run, chosen.recipe).state_dict().items()}
    clips = []

    def kept(*arguments: Any) -> Any:
        clips.append(clip_of(*arguments))
        return clips[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovseg_cli.stages.train_proposals.clip_of", kept)
        train_proposals(chosen)
    (used,) = clips
    assert not used.model.visual.training
    assert all(torch.equal(before[name], value) for name, value in used.state_dict().items())


def test_a_trainable_tower_changes_and_lies_in_the_artifact(tmp_path, shapes):
    chosen = settings(tmp_path, shapes, LEARNING)
    clip = clip_of(chosen.run, chosen.recipe)
    train_proposals(chosen)
    tensors, visual = weights(tmp_path), clip.model.visual
    assert visual.state_dict().keys() == {
        name.removeprefix("dense.visual.") for name in tensors if name.startswith("dense.")
    }
    for name, value in visual.state_dict().items():
        learns = name in dict(visual.named_parameters()) and not name.startswith(UNREAD)
        assert torch.equal(tensors[f"dense.visual.{name}"], value) != learns, name
    slower = settings(tmp_path / "slower", shapes, LEARNING, backbone_lr_factor=0.0)
    train_proposals(slower)
    tensors = weights(tmp_path / "slower")
    for name, value in visual.state_dict().items():
        assert torch.equal(tensors[f"dense.visual.{name}"], value), name


def test_the_trained_tower_can_pool_masks(tmp_path, shapes):
    chosen = settings(tmp_path, shapes, LEARNING)
    train_proposals(chosen)
    section = {"name": "mask_pooling", "tower": "proposals"}
    clip = clip_of(chosen.run, chosen.recipe)
    encoder = mask_encoder_of(chosen.run, chosen.recipe, clip, device=CPU, section=section)
    tensors = weights(tmp_path)
    for name, value in encoder.reader.state_dict().items():
        assert torch.equal(value, tensors[f"dense.{name}"]), name


def test_without_a_trained_tower_there_is_none_to_pool_with(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    section = {"name": "mask_pooling", "tower": "proposals"}
    clip = clip_of(chosen.run, chosen.recipe)
    with pytest.raises(CheckpointError, match=r"teacher.safetensors: has no image tower"):
        mask_encoder_of(chosen.run, chosen.recipe, clip, device=CPU, section=section)


def test_the_training_vocabulary_is_kept_and_its_classes_are_the_seen_ones(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    assert training_vocabulary(chosen.run, chosen.recipe) is None
    train_proposals(chosen)
    kept = training_vocabulary(chosen.run, chosen.recipe)
    whole = CocoDataset(shapes, "train").vocabulary
    seen = [name for name, is_seen in zip(whole.names, whole.seen, strict=True) if is_seen]
    assert 0 < len(seen) < len(whole)
    assert list(kept.names) == seen
    assert kept.synonyms == CocoDataset(shapes, "train", part="seen").vocabulary.synonyms


def test_a_damaged_training_vocabulary_is_a_clear_error(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    model = {"vocabulary": {"names": ["a"], "synonyms": []}}
    chosen.run.save_artifact("proposals", "teacher", {"a": torch.zeros(1)}, model)
    with pytest.raises(CheckpointError, match=r"teacher.json: its 'vocabulary' cannot be read"):
        training_vocabulary(chosen.run, chosen.recipe)


def test_unseen_words_never_enter_the_loss(tmp_path, shapes):
    """Texts and labels are those of seen classes: one column a seen class, and void."""
    found = []

    def spied(self: SetCriterion, predictions: Any, targets: Any, **options: Any) -> Any:
        found.append((predictions[-1][0].shape[-1], max(int(t.labels.max()) for t in targets)))
        return criterion(self, predictions, targets, **options)

    criterion = SetCriterion.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SetCriterion, "__call__", spied)
        train_proposals(settings(tmp_path, shapes))
    seen = sum(CocoDataset(shapes, "train").vocabulary.seen)
    assert [columns for columns, _ in found] == [seen + 1] * 2
    assert all(label < seen for _, label in found)


def test_labels_are_those_of_the_masks(shapes):
    dataset = CocoDataset(shapes, "train", part="seen")
    examples = ProposalExamples(dataset, TrainProposalsOptions(**TRAINING), seed=0)
    batch = examples.batch_at(0)
    for image_id, masks, labels in zip(batch.image_ids, batch.masks, batch.labels, strict=True):
        (sample,) = (sample for sample in dataset if sample.image_id == image_id)
        assert len(masks) == len(labels)
        assert set(labels.tolist()) <= set(sample.labels.tolist())


@TOWERS
def test_a_training_that_was_cut_off_ends_at_the_same_weights(
    tmp_path, shapes, proposer, monkeypatch
):
    train_proposals(settings(tmp_path / "whole", shapes, proposer))
    batch_at = ProposalExamples.batch_at

    def cut_off(self: ProposalExamples, step: int) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalExamples, "batch_at", cut_off)
        with pytest.raises(Interrupted):
            train_proposals(settings(tmp_path / "parts", shapes, proposer))
    train_proposals(settings(tmp_path / "parts", shapes, proposer))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_processes_reach_the_weights_of_one(tmp_path, shapes):
    train_proposals(settings(tmp_path / "one", shapes, LEARNING))
    of_two = settings(tmp_path / "two", shapes, LEARNING)
    of_two.run.save_recipe(of_two.recipe)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "train-proposals", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(tmp_path / "two")}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=300
    )
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-6), name


def test_another_clip_is_learned_on_anew_and_not_used_with_old_proposals(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    assert train_proposals(chosen).already_done
    save_clip(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="trained for an earlier clip/base"):
        proposer_of(chosen.run, chosen.recipe, device=CPU)
    assert not train_proposals(chosen).already_done


def test_proposals_of_one_tower_are_not_used_on_another(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    clip = clip_of(chosen.run, chosen.recipe)
    tower = {f"visual.{name}": value for name, value in clip.model.visual.state_dict().items()}
    chosen.run.save_artifact("clip", "tuned", tower, {"mode": "maft", "base": "base"})
    on_tower = settings(tmp_path, shapes)
    on_tower.recipe.sections["clip"] = {"tower": "tuned"}
    with pytest.raises(CheckpointError, match=r"trained on clip/base, but .* clip/tuned"):
        proposer_of(on_tower.run, on_tower.recipe, device=CPU)
    assert not train_proposals(on_tower).already_done
    proposer_of(on_tower.run, on_tower.recipe, device=CPU)
    assert set(chosen.run.manifest()[-1]["inputs"]) >= {"clip/base", "clip/tuned"}


def test_other_templates_are_other_texts(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    chosen.recipe.sections["vocabulary"] = {"templates": "vild"}
    assert not train_proposals(chosen).already_done


def test_without_a_clip_the_message_names_the_command(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    Run(tmp_path).artifact_path("clip", "base").unlink()
    with pytest.raises(RunError, match="train-clip"):
        train_proposals(chosen)


def test_proposals_of_other_options_are_refused(tmp_path, shapes):
    train_proposals(settings(tmp_path, shapes))
    other = settings(tmp_path, shapes, {**PROPOSER, "queries": 6})
    with pytest.raises(CheckpointError, match="trained with queries 5"):
        proposer_of(other.run, other.recipe, device=CPU)


def test_a_proposer_that_is_ready_is_not_trained(tmp_path, shapes):
    with pytest.raises(RecipeError, match=r"\[proposer\] name: sam is ready as it is"):
        train_proposals(settings(tmp_path, shapes, {"name": "sam"}))


def test_a_teachers_masks_have_no_words_to_distil(tmp_path, shapes):
    with pytest.raises(RecipeError, match="clip_mask2former learns the masks' classes"):
        distill(settings(tmp_path, shapes))


def test_a_segmenter_is_built_from_what_was_trained(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    segmenter = Segmenter.from_run(chosen.run, chosen.recipe)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    result = segmenter.predict(image, "circle,square,grass:stuff")
    assert result.semantic.shape == (64, 96)


def test_two_pictures_are_learned_by_heart_and_the_right_words_win():
    """A red and a green rectangle, two classes, of which one has two words."""
    options = TrainProposalsOptions(points=128, lr=3e-3)
    images = torch.full((2, 3, 32, 32), 100.0)
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 4:24, 4:20] = masks[1, 0, 8:28, 12:28] = True
    for image, channel in ((0, 0), (1, 1)):
        images[image, :, masks[image, 0]] = 20.0
        images[image, channel, masks[image, 0]] = 250.0
    batch = Batch(images, tuple(masks), (0, 1), (torch.tensor([0]), torch.tensor([1])))
    torch.manual_seed(0)
    clip = ClipEncoder(build_small_convnext_clip(**CLIP).eval())
    model = ClipMask2Former(clip=clip, **{k: v for k, v in PROPOSER.items() if k != "name"})
    texts = TextEmbeddings(torch.randn(3, 16), torch.tensor([0, 0, 1]))
    optimizer = options.optimizer(model)
    model.train()
    for step in range(40):
        losses = proposal_losses(
            model, batch, options=options, seed=0, step=step, device=CPU, texts=texts
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        final = model(images, texts)[-1]
    probabilities = final.classes.softmax(-1)
    for image, label in ((0, 0), (1, 1)):
        query = int(probabilities[image, :, :2].amax(1).argmax())
        assert int(probabilities[image, query].argmax()) == label
        found = torch.nn.functional.interpolate(final.mask_logits[image, query][None, None], 32)
        inside, wanted = found[0, 0] > 0, masks[image, 0]
        assert (inside & wanted).sum() > 0.8 * (inside | wanted).sum()


def test_the_papers_recipe_trains_on_the_published_schedule():
    options = build(
        "train_proposals", load_recipe("fcclip").section("train_proposals"), TrainProposalsOptions
    )
    rate = options.schedule()
    expected = {0: 1.0, 327_777: 1.0, 327_778: 0.1, 355_091: 0.1, 355_092: 0.01, 368_749: 0.01}
    assert {at: rate(at) for at in expected} == pytest.approx(expected)
