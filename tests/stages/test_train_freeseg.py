"""MAFT's proposer from training to proposals: it finds masks of the words that it is told."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import tiny_clip

from ovseg_cli.checkpoints.proposer_parts import proposer_of, training_vocabulary
from ovseg_cli.checkpoints.run_parts import artifacts_of
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.errors import RecipeError
from ovseg_cli.proposers import FolderMasks
from ovseg_cli.proposers.freeseg import FreeSeg, FreeSegWithWords
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.proposal_examples import ProposalExamples
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.train_proposals import train_proposals
from ovseg_cli.stages.tuning_proposer import tuning_proposer
from ovseg_cli.training.signals import Interrupted
from ovseg_cli.vocabulary.labels import parse_labels

CPU = torch.device("cpu")
CLIP = {
    "embed_dim": 16,
    "image_size": 32,
    "patch_size": 8,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "text_width": 16,
    "text_heads": 2,
    "token_width": 8,
}
PROPOSER = {
    "name": "freeseg",
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "hidden_dim": 32,
    "embedding_hidden_dim": 16,
    "queries": 4,
    "heads": 2,
    "interaction_dim": 16,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 16,
    "decoder_layers": 1,
    "feedforward_dim": 16,
    "dropout": 0.1,
}
TRAINING = {
    "steps": 2,
    "batch_size": 2,
    "augmentation": "squash",
    "image_size": 64,
    "backbone_weights": "none",
    "class_weight": 1.0,
    "mask_weight": 20.0,
    "dice_weight": 5.0,
    "cached_images": 4,
}
COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


def settings(folder: Path, shapes: Path, proposer: dict[str, Any] = PROPOSER) -> Settings:
    run = Run(folder)
    if not run.has_artifact("clip", "base"):
        torch.manual_seed(0)
        tensors = build_small_clip(**CLIP).state_dict()
        run.save_artifact("clip", "base", tensors, {"architecture": "small", "options": CLIP})
    sections = {
        "dataset": {"root": str(shapes)},
        "proposer": proposer,
        "mask_encoder": {"name": "masked_crops"},
        "classification": {"background": None},
        "train_proposals": TRAINING,
    }
    return Settings(run, Recipe("a test", 0, sections))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Run(folder).load_artifact("proposals", "teacher")[0]


def test_what_was_trained_finds_masks_of_the_words_that_it_is_told(tmp_path, shapes):
    chosen = settings(tmp_path, shapes)
    outcome = train_proposals(chosen)
    assert outcome.results["losses"].keys() == {"class", "mask", "dice"}
    proposer = proposer_of(chosen.run, chosen.recipe, device=CPU)
    assert isinstance(proposer, FreeSeg)
    tensors = weights(tmp_path)
    assert torch.equal(proposer.interaction.scale, tensors["interaction.scale"])
    kept = training_vocabulary(chosen.run, chosen.recipe)
    assert kept is not None
    segmenter = Segmenter.from_run(chosen.run, chosen.recipe)
    framed = segmenter.frame(torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8))
    told, others = (
        segmenter.propose(framed, parse_labels(words)) for words in ("circle,square", "sky:stuff")
    )
    assert not torch.equal(told.mask_logits, others.mask_logits)
    assert torch.equal(
        segmenter.propose(framed).mask_logits, segmenter.propose(framed, kept).mask_logits
    )
    told_once = tuning_proposer(chosen, kept, segmenter.clip)
    assert isinstance(told_once, FreeSegWithWords)
    torch.testing.assert_close(
        told_once.propose(framed).mask_logits, segmenter.propose(framed, kept).mask_logits
    )


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


def test_masks_on_file_need_no_artifact_and_no_training(tmp_path, shapes):
    (tmp_path / "masks").mkdir()
    on_file = settings(tmp_path, shapes, {"name": "folder", "root": str(tmp_path / "masks")})
    assert isinstance(proposer_of(on_file.run, on_file.recipe, device=CPU), FolderMasks)
    assert artifacts_of(on_file.run, on_file.recipe) == ("clip/base",)
    assert training_vocabulary(on_file.run, on_file.recipe) is None
    with pytest.raises(RecipeError, match="the masks of folder lie on images as they are on disk"):
        tuning_proposer(on_file, parse_labels("circle"), tiny_clip())
