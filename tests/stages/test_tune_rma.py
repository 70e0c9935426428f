"""Tuning relative mask attention: its batches, its losses, and the stage from run to artifact."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from untrained_run import untrained_run

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.proposer_parts import proposer_of
from ovseg_cli.checkpoints.run_parts import mask_encoder_of
from ovseg_cli.classification import Classification
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.mask_encoders.relative_mask_attention import RefinedMasks, RelativeMaskAttention
from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.rma_examples import Batch, RmaExamples
from ovseg_cli.stages.rma_options import RmaOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.tune_clip import tune_clip
from ovseg_cli.stages.tune_rma import rma_losses, tune_rma
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings

COUNTS = {"train": 4, "val": 0, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
CPU = torch.device("cpu")
OPTIONS = RmaOptions(points=60)
TEXTS = TextEmbeddings(torch.eye(3), torch.arange(3), has_background=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(seed=1, **COUNTS))
    return folder


@pytest.fixture
def settings(tmp_path: Path, shapes: Path) -> Settings:
    run = Run(untrained_run(tmp_path / "run"))
    sections: dict[str, dict[str, Any]] = {
        **run.recipe().sections,
        "dataset": {"root": str(shapes)},
        "mask_encoder": {"name": "relative_mask_attention", "layers": [0, 1]},
        "tune_clip": {
            "mode": "rma",
            "steps": 3,
            "batch_size": 2,
            "image_size": 64,
            "points": 50,
            "lr": 0.01,
        },
    }
    return Settings(run, replace(run.recipe(), sections=sections))


def changed(settings: Settings, section: str, **options: Any) -> Settings:
    sections = dict(settings.recipe.sections)
    sections[section] = {**sections.get(section, {}), **options}
    return replace(settings, recipe=replace(settings.recipe, sections=sections))


def encoder_of(settings: Settings) -> RelativeMaskAttention:
    clip = clip_of(settings.run, settings.recipe)
    encoder = mask_encoder_of(settings.run, settings.recipe, clip, device=CPU)
    assert isinstance(encoder, RelativeMaskAttention)
    return encoder


def untuned(settings: Settings, **options: Any) -> RelativeMaskAttention:
    return RelativeMaskAttention(clip_of(settings.run, settings.recipe), layers=(0, 1), **options)


def examples(settings: Settings, shapes: Path, **options: Any) -> RmaExamples:
    return RmaExamples(
        CocoDataset(shapes, "train"),
        proposer_of(settings.run, settings.recipe, device=CPU),
        options=RmaOptions(batch_size=2, image_size=64, **options),
        seed=0,
        device=CPU,
    )


def test_the_artifact_holds_what_was_tuned_and_prediction_uses_it(settings: Settings) -> None:
    outcome = tune_clip(settings)
    tensors, model = settings.run.load_artifact("clip", "rma")
    assert outcome.artifact == "clip/rma"
    assert outcome.results["parameters"] == sum(value.numel() for value in tensors.values())
    assert set(outcome.results["losses"]) == {"class", "mask", "dice"}
    assert model["base"] == "base"
    assert model["mask_encoder"] == settings.recipe.section("mask_encoder")
    before = untuned(settings).tuned_tensors()
    for name, value in encoder_of(settings).tuned_tensors().items():
        assert torch.equal(value, tensors[name])
        assert not torch.equal(value, before[name])
    assert tune_clip(settings).already_done


def test_masks_that_are_not_refined_are_not_supervised(settings: Settings) -> None:
    settings = changed(settings, "mask_encoder", refine=False)
    outcome = tune_clip(settings)
    assert outcome.artifact == "clip/rma-unrefined"
    assert set(outcome.results["losses"]) == {"class"}
    moved = encoder_of(settings).tuned_tensors()
    for name, value in untuned(settings, refine=False).tuned_tensors().items():
        assert not torch.equal(value, moved[name])


def test_two_processes_tune_what_one_tunes_with_the_same_global_batch(settings: Settings) -> None:
    tune_clip(settings)
    one = settings.run.load_artifact("clip", "rma")[0]
    settings.run.artifact_path("clip", "rma").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    stage = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "tune-clip", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(settings.run.path)}
    subprocess.run(
        [*torchrun, *stage], check=True, env=environment, capture_output=True, timeout=300
    )
    two = settings.run.load_artifact("clip", "rma")[0]
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("mask_encoder", {"name": "mask_class_tokens"}, "this mode tunes relative_mask_attention"),
        ("mask_encoder", {"layer": [0]}, r"\[mask_encoder\] layer: .*did you mean 'layers'"),
        ("tune_clip", {"image_size": 100}, r"\[tune_clip\] image_size: 100 is not a multiple"),
        ("tune_clip", {"supervision": "all"}, r"supervision: expected one of aliased, distinct"),
        ("tune_clip", {"oversample": 0.5}, r"\[tune_clip\] oversample: 0.5 is not"),
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
        tune_rma(changed(settings, "tune_clip", batch_size=3), "rma", "tune-clip-rma", "")


@pytest.mark.parametrize("augmentation", ["squash", "jitter"])
def test_a_batch_depends_on_its_step_alone_and_its_proposals_lie_as_its_images(
    settings: Settings, shapes: Path, augmentation: str
) -> None:
    first, again = (examples(settings, shapes, augmentation=augmentation) for _ in range(2))
    first.batch_at(0)
    batch, same = first.batch_at(1), again.batch_at(1)
    assert torch.equal(batch.images, same.images)
    assert torch.equal(batch.mask_logits, same.mask_logits)
    assert not torch.equal(batch.images, first.batch_at(2).images)
    for image, mask_logits, target in zip(*batch[:2], batch.targets, strict=True):
        (proposals,) = first.proposer.propose_batch(image[None])
        torch.testing.assert_close(mask_logits, proposals.mask_logits, atol=1e-4, rtol=1e-4)
        assert target.masks.shape[1:] == image.shape[1:]
        assert len(target.masks) == len(target.labels)


class FewProposals:
    """As many masks as each image is told to have."""

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def propose(self, framed: FramedImage) -> Proposals:
        return self.propose_batch(framed.pixels[None])[0]

    def propose_batch(self, images: Tensor) -> list[Proposals]:
        frame = Frame(*[(64, 64)] * 3)
        return [Proposals(torch.ones(n, 8, 8), frame, torch.ones(n)) for n in self.counts]


def test_images_with_fewer_proposals_have_empty_masks_at_the_end(
    settings: Settings, shapes: Path
) -> None:
    found = examples(settings, shapes)
    found.proposer = FewProposals(3, 1)
    batch = found.batch_at(0)
    assert batch.counts == (3, 1)
    assert (batch.mask_logits > 0).all(-1).all(-1).tolist() == [[True] * 3, [True, False, False]]
    found.proposer = FewProposals(0, 0)
    batch = found.batch_at(0)
    assert batch.counts == (0, 0)
    assert (batch.mask_logits < 0).all()
    assert batch.mask_logits.shape == (2, 1, 8, 8)


def test_a_split_without_masks_is_refused(settings: Settings, shapes: Path) -> None:
    dataset = CocoDataset(shapes, "train")
    dataset.records = tuple(replace(record, segments=()) for record in dataset.records)
    with pytest.raises(InputError, match="no annotated masks of seen classes to learn"):
        RmaExamples(dataset, FewProposals(), options=OPTIONS, seed=0, device=CPU)


class Fixed(nn.Module):
    """Three proposals of one image: the first half, the second half, and nothing, twice refined.

    Each is known by the number that its mask logits are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.tensor([[[1.0, 1, 0], [0, 1, 0], [1, 0, 0]]]))
        masks = 2 * torch.stack([LEFT, 1 - LEFT, 0 * LEFT])[None] - 1
        self.first, self.last = nn.Parameter(masks.clone()), nn.Parameter(3 * masks)

    def read(self, images: Tensor) -> tuple[()]:
        return ()

    def forward(self, images: Tensor, mask_logits: Tensor, read: object) -> RefinedMasks:
        numbers = mask_logits[0, :, 0, 0].long()
        refined = (self.first[:, numbers], self.last[:, numbers])
        return RefinedMasks(self.embeddings[:, numbers], refined)


LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1


def batch_of(*labels: int, counts: int = 3) -> Batch:
    masks = torch.stack([LEFT, 1 - LEFT])[: len(labels)]
    target = MaskTargets(masks, torch.tensor(labels, dtype=torch.int64), image_id=0)
    numbers = torch.arange(3.0)[None, :, None, None].expand(1, 3, 8, 8)
    return Batch(torch.zeros(1, 3, 8, 8), numbers, (counts,), (target,))


def losses_of(module: nn.Module, batch: Batch, options: RmaOptions = OPTIONS) -> dict[str, Tensor]:
    return rma_losses(
        module,
        batch,
        text_embeddings=TEXTS,
        classification=Classification(scale=2.0),
        options=options,
        seed=0,
        step=0,
    )


def test_the_class_loss_is_twice_the_mean_over_matched_proposals() -> None:
    """Logits, by hand: the first (r, r, 0) with r the root of 2, the second (0, 2, 0)."""
    root = 2**0.5
    rows = torch.tensor([[root, root, 0.0], [0.0, 2.0, 0.0]])
    expected = 2 * F.cross_entropy(rows, torch.tensor([0, 1]))
    torch.testing.assert_close(losses_of(Fixed(), batch_of(0, 1))["class"], expected)


def test_proposals_without_an_annotation_learn_nothing_unless_they_are_given_weight() -> None:
    module = Fixed()
    losses_of(module, batch_of(0, 1))["class"].backward()
    assert (module.embeddings.grad[0, 2] == 0).all()
    losses_of(module, batch_of(0, 1), replace(OPTIONS, no_object_weight=0.1))["class"].backward()
    assert module.embeddings.grad[0, 2, 2] < 0  # towards "other"


@pytest.mark.parametrize(("supervision", "reached"), [("aliased", False), ("distinct", True)])
def test_the_supervision_says_which_refinements_learn(supervision: Any, reached: bool) -> None:
    module, batch = Fixed(), batch_of(0, 1)
    losses = losses_of(module, batch, replace(OPTIONS, supervision=supervision))
    (losses["mask"] + losses["dice"]).backward()
    assert (module.first.grad is not None) == reached
    assert module.last.grad.abs().sum() > 0


def test_aliased_supervision_counts_the_last_masks_once_for_every_refinement() -> None:
    module, batch = Fixed(), batch_of(0, 1)
    aliased = losses_of(module, batch)
    distinct = losses_of(module, batch, replace(OPTIONS, supervision="distinct"))
    assert distinct["mask"] > aliased["mask"]  # the first masks are less certain
    module.first.data = module.last.data.clone()
    distinct = losses_of(module, batch, replace(OPTIONS, supervision="distinct"))
    assert all(torch.equal(loss, distinct[name]) for name, loss in aliased.items())


def test_an_image_without_annotations_costs_nothing_and_is_no_nan() -> None:
    module = Fixed()
    losses = losses_of(module, batch_of())
    assert {name: loss.item() for name, loss in losses.items()} == {
        "class": 0,
        "mask": 0,
        "dice": 0,
    }
    sum(losses.values()).backward()
    assert (module.embeddings.grad == 0).all()


def test_padding_takes_no_annotation() -> None:
    module = Fixed()
    sum(losses_of(module, batch_of(0, 1, counts=1)).values()).backward()
    assert (module.last.grad[0, 1:] == 0).all()
    assert (module.embeddings.grad[0, 1:] == 0).all()


def gradients(
    encoder: RelativeMaskAttention, batch: Batch, options: RmaOptions
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    encoder.zero_grad()
    losses = losses_of(encoder, batch, options)
    sum(losses.values()).backward()
    added = encoder.named_parameters()
    return losses, {name: p.grad.clone() for name, p in added if p.grad is not None}


def many_proposals(settings: Settings, shapes: Path) -> Batch:
    """Twelve of the first image and ten of the second, more than are annotated."""
    batch = examples(settings, shapes).batch_at(0)
    torch.manual_seed(0)
    targets = tuple(replace(t, labels=t.labels % 2) for t in batch.targets)
    assert max(len(target.labels) for target in targets) < 10
    mask_logits = 4 * torch.randn(2, 12, 8, 8)
    return batch._replace(mask_logits=mask_logits, counts=(12, 10), targets=targets)


@pytest.mark.parametrize(
    ("supervision", "refine"), [("aliased", True), ("distinct", True), ("aliased", False)]
)
def test_matched_proposals_alone_give_the_losses_and_gradients_of_all(
    settings: Settings, shapes: Path, monkeypatch: pytest.MonkeyPatch, supervision: Any, refine: Any
) -> None:
    """A weight too small to count takes the way of all."""
    encoder, batch = untuned(settings, refine=refine), many_proposals(settings, shapes)
    monkeypatch.setattr(f"{__name__}.TEXTS", wide_texts())
    asked: list[tuple[bool, int]] = []
    encoder.register_forward_pre_hook(
        lambda _, given: asked.append((torch.is_grad_enabled(), given[1].shape[1]))
    )
    options = replace(OPTIONS, supervision=supervision)
    losses, gradient = gradients(encoder, batch, options)
    expected, expected_gradient = gradients(
        encoder, batch, replace(options, no_object_weight=1e-30)
    )
    (_, everything), (learned, matched), (_, whole) = asked
    assert everything == whole == 12
    assert learned
    assert matched < 12
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-5)
    assert set(gradient) == set(encoder.tuned_tensors())
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


def test_matching_first_leaves_every_gradient_under_autocast(
    settings: Settings, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, batch = untuned(settings), many_proposals(settings, shapes)
    monkeypatch.setattr(f"{__name__}.TEXTS", wide_texts())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(encoder, batch)
    sum(losses.values()).backward()
    for name, parameter in encoder.named_parameters():
        assert name.startswith("clip.") or parameter.grad.abs().sum() > 0, name


def wide_texts() -> TextEmbeddings:
    return TextEmbeddings(torch.eye(3, 16), torch.arange(3), has_background=True)


def test_a_few_steps_lower_the_losses(settings: Settings, shapes: Path) -> None:
    batch = examples(settings, shapes).batch_at(0)
    encoder = untuned(settings, init="identity")
    texts = TextEmbeddings(torch.randn(60, 16), torch.arange(60), has_background=True)
    options = replace(OPTIONS, lr=0.02, points=200)
    optimizer, totals = options.optimizer(encoder), []
    for _ in range(12):
        losses = rma_losses(
            encoder,
            batch,
            text_embeddings=texts,
            classification=Classification(scale=10.0),
            options=options,
            seed=0,
            step=0,
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(torch.stack([*losses.values()]).detach())
    assert totals[-1].sum() < 0.9 * totals[0].sum()
    assert all(parameter.grad is None for parameter in encoder.clip.parameters())


@pytest.mark.gpu
def test_a_gpu_tunes_to_about_the_same_weights(settings: Settings) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = tune_clip(settings).results["losses"]
    outcome = tune_clip(replace(settings, device=torch.device("cuda"), restart=True))
    assert set(outcome.results["losses"]) == set(expected)
    tensors = settings.run.load_artifact("clip", "rma")[0]
    assert all(torch.isfinite(value).all() for value in tensors.values())
