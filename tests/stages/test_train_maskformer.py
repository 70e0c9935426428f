"""Training of OVSeg's proposer: masks and words, on no feature of the CLIP."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.proposer_parts import proposer_of, training_vocabulary
from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable
from ovseg_cli.clip.small import build_small_convnext_clip
from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.full_masks import FullMaskCriterion
from ovseg_cli.proposers import MaskFormer
from ovseg_cli.recipe import Recipe
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
    "name": "maskformer",
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "trained_stages": 5,
    "hidden_dim": 32,
    "mask_dim": 16,
    "embedding_hidden_dim": 32,
    "queries": 5,
    "heads": 2,
    "decoder_layers": 1,
    "feedforward_dim": 32,
}
TRAINING = {
    "steps": 2,
    "batch_size": 2,
    "augmentation": "squash",
    "image_size": 64,
    "backbone_weights": "none",
    "class_weight": 1.0,
    "mask_weight": 20.0,
    "dice_weight": 1.0,
    "cached_images": 4,
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


def settings(folder: Path, shapes: Path, **proposer: Any) -> Settings:
    run = Run(folder)
    if not run.has_artifact("clip", "base"):
        torch.manual_seed(0)
        tensors = build_small_convnext_clip(**CLIP).state_dict()
        run.save_artifact(
            "clip", "base", tensors, {"architecture": "small_convnext", "options": CLIP}
        )
    sections = {
        "dataset": {"root": str(shapes)},
        "proposer": {**PROPOSER, **proposer},
        "mask_encoder": {"name": "masked_crops"},
        "classification": {"background": None, "ensemble": "product", "alpha": 0.3, "beta": 0.3},
        "train_proposals": TRAINING,
    }
    return Settings(run, Recipe("a test", 0, sections))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Run(folder).load_artifact("proposals", "teacher")[0]


def test_the_artifact_rebuilds_what_was_trained_and_knows_its_classes(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    outcome = train_proposals(chosen)
    assert outcome.results["losses"].keys() == {"class", "mask", "dice"}
    tensors = weights(tmp_path)
    assert outcome.results["parameters"] == sum(value.numel() for value in tensors.values())
    proposer = proposer_of(chosen.run, chosen.recipe, device=CPU)
    assert isinstance(proposer, MaskFormer)
    assert torch.equal(proposer.no_object.weight, tensors["no_object.weight"])
    kept = training_vocabulary(chosen.run, chosen.recipe)
    assert kept is not None
    assert len(kept) == 20


def test_whole_masks_are_compared_with_the_recipes_weights(tmp_path, shapes, monkeypatch):
    found = []
    criterion = FullMaskCriterion.__call__

    def spied(self: FullMaskCriterion, predictions: Any, targets: Any, **options: Any) -> Any:
        found.append((self, predictions[-1][0].shape[-1]))
        return criterion(self, predictions, targets, **options)

    monkeypatch.setattr(FullMaskCriterion, "__call__", spied)
    train_proposals(settings(tmp_path, shapes))
    assert found == [(FullMaskCriterion(1.0, 20.0, 1.0, 0.1), 21)] * 2


def test_a_training_that_was_cut_off_ends_at_the_same_weights(tmp_path, shapes, monkeypatch):
    """Its dropout goes on where it was, too."""
    train_proposals(settings(tmp_path / "whole", shapes))
    batch_at = ProposalExamples.batch_at

    def cut_off(self: ProposalExamples, step: int) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalExamples, "batch_at", cut_off)
        with pytest.raises(Interrupted):
            train_proposals(settings(tmp_path / "parts", shapes))
    train_proposals(settings(tmp_path / "parts", shapes))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_frozen_stages_stay_as_they_were(tmp_path, shapes):
    train_proposals(settings(tmp_path, shapes, trained_stages=3))
    torch.manual_seed(0)
    clip = clip_of(Run(tmp_path), settings(tmp_path, shapes).recipe)
    torch.manual_seed(0)
    fresh = MaskFormer(clip=clip, **{k: v for k, v in PROPOSER.items() if k != "name"})
    tensors = weights(tmp_path)
    for name, value in fresh.backbone.state_dict().items():
        is_frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert torch.equal(tensors[f"backbone.{name}"], value) == is_frozen, name


def test_a_segmenter_joins_it_with_masked_crops(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    train_proposals(chosen)
    chosen.recipe.sections["mask_encoder"] = {"name": "mask_pooling"}
    segmenter = Segmenter.from_run(chosen.run, chosen.recipe)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    framed = segmenter.frame(image)
    proposals = segmenter.propose(framed)
    assert proposals.embeddings is not None
    result = segmenter.predict(image, "circle,square,grass:stuff")
    assert result.semantic is not None
    assert result.semantic.shape == (64, 96)


def test_a_teachers_masks_have_no_words_to_distil(tmp_path, shapes):
    with pytest.raises(RecipeError, match="maskformer learns the masks' classes"):
        distill(settings(tmp_path, shapes))


def test_two_pictures_are_learned_by_heart_and_the_right_words_win():
    """A red and a green rectangle, two classes, of which one has two words."""
    options = TrainProposalsOptions(
        lr=1e-3, backbone_lr_factor=1.0, class_weight=1.0, mask_weight=20.0, dice_weight=1.0
    )
    images = torch.full((2, 3, 32, 32), 100.0)
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 4:24, 4:20] = masks[1, 0, 8:28, 12:28] = True
    for image, channel in ((0, 0), (1, 1)):
        images[image, :, masks[image, 0]] = 20.0
        images[image, channel, masks[image, 0]] = 250.0
    batch = Batch(images, tuple(masks), (0, 1), (torch.tensor([0]), torch.tensor([1])))
    torch.manual_seed(0)
    clip = ClipEncoder(build_small_convnext_clip(**CLIP).eval())
    options_of_model = {k: v for k, v in PROPOSER.items() if k != "name"}
    model = MaskFormer(clip=clip, **{**options_of_model, "dropout": 0.0})
    texts = TextEmbeddings(torch.randn(3, 16), torch.tensor([0, 0, 1]))
    optimizer = options.optimizer(model)
    model.train()
    for step in range(40):
        losses = proposal_losses(
            model, batch, options=options, seed=0, step=step, device=CPU, texts=texts
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
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
