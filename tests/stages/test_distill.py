"""Progressive distillation as a stage, by one process and by two."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from untrained_run import RECIPE, untrained_run

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import CheckpointError, RecipeError, RunError
from ovseg_cli.recipe import Recipe, parse_recipe
from ovseg_cli.run import Run
from ovseg_cli.stages import distill as stage
from ovseg_cli.stages.distill import DistillOptions, distill
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.proposal_examples import Batch, ProposalExamples
from ovseg_cli.stages.proposal_losses import proposal_losses
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.teacher_masks import TeacherMasks
from ovseg_cli.stages.train_proposals import built_proposer
from ovseg_cli.structures import Frame, FramedImage, Proposals
from ovseg_cli.training.seeds import seed_of
from ovseg_cli.training.signals import Interrupted

MASK_RCNN = {
    "name": "mask_rcnn",
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "trained_stages": 2,
    "channels": 16,
    "anchor_sizes": [12, 24, 48, 96, 128],
    "candidates": 20,
    "regions": 20,
    "region_samples": 32,
    "box_head_dim": 32,
    "box_samples": 32,
    "mask_layers": 1,
    "detections": 5,
    "score_threshold": 0.0,
}
TRAINING = {"augmentation": "squash", "image_size": 64, "points": 32, "cached_images": 4}
DISTILL = {
    "rounds": 1,
    "steps": 1,
    "batch_size": 2,
    "lr": 1e-4,
    "points": 64,
    "score_threshold": 0.0,
    "overlap_threshold": 0.99,
    "statistics": "val",
    "statistics_images": 1,
}
COUNTS = {"train": 4, "val": 3, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


@pytest.fixture
def begun(tmp_path, shapes) -> Callable[..., Settings]:
    """Settings of a run with an untrained teacher; options of the section `distill` by name."""

    def settings(folder: str = "run", **options: Any) -> Settings:
        path = tmp_path / folder
        if not path.exists():
            untrained_run(path)
        sections = {
            **parse_recipe(RECIPE, name="untrained").sections,
            "dataset": {"root": str(shapes)},
            "train_proposals": TRAINING,
            "distill": {**DISTILL, **options},
        }
        return Settings(Run(path), Recipe("a test", 0, sections))

    return settings


def weights(settings: Settings, name: str) -> dict[str, Tensor]:
    return settings.run.load_artifact("proposals", name)[0]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_every_round_makes_a_student_and_leaves_its_teacher_as_it_was(begun):
    settings = begun(rounds=2)
    before = settings.run.artifact_path("proposals", "teacher").read_bytes()
    first, second = distill(settings)
    assert (first.artifact, second.artifact) == ("proposals/student-1", "proposals/student-2")
    assert [o.results["teacher"] for o in (first, second)] == ["teacher", "student-1"]
    assert settings.run.artifact_path("proposals", "teacher").read_bytes() == before
    names = ("teacher", "student-1", "student-2")
    teacher, one, two = (weights(settings, name) for name in names)
    assert not same(teacher, one)
    assert not same(one, two)
    assert first.results["pseudo_masks"]["images"] == 1
    assert first.results["pseudo_masks"]["per_image"] > 0
    assert settings.run.newest("proposals") == "student-2"


def test_mask_rcnn_learns_from_its_own_masks_too(begun):
    settings = begun()
    sections = {**settings.recipe.sections, "proposer": MASK_RCNN}
    _, teacher = built_proposer(MASK_RCNN)
    model = {"name": "mask_rcnn", "options": MASK_RCNN}
    settings.run.save_artifact("proposals", "teacher", teacher.state_dict(), model)
    before = weights(settings, "teacher")
    (outcome,) = distill(replace(settings, recipe=Recipe("a test", 0, sections)))
    assert outcome.results["pseudo_masks"]["per_image"] > 0
    student = weights(settings, "student-1")
    moved = {name for name, tensor in student.items() if not torch.equal(tensor, before[name])}
    assert any("mask" in name for name in moved)
    assert "backbone.conv1.weight" not in moved


def test_the_teachers_weights_do_not_move_in_a_round(begun, monkeypatch):
    teachers = []
    original = DistillOptions.teacher_masks

    def seen(self, teacher, **parts):
        teachers.append(teacher)
        return original(self, teacher, **parts)

    monkeypatch.setattr(DistillOptions, "teacher_masks", seen)
    settings = begun()
    distill(settings)
    (teacher,) = teachers
    assert same(teacher.state_dict(), weights(settings, "teacher"))
    assert not teacher.training


def test_finished_rounds_are_left_alone_and_more_can_follow(begun):
    distill(begun(rounds=1))
    assert [outcome.already_done for outcome in distill(begun(rounds=2))] == [True, False]
    assert [outcome.already_done for outcome in distill(begun(rounds=2))] == [True, True]


def test_a_changed_teacher_redoes_the_rounds(begun):
    settings = begun(rounds=2)
    distill(settings)
    before = weights(settings, "student-2")
    changed = {name: value * 1.01 for name, value in weights(settings, "teacher").items()}
    settings.run.save_artifact("proposals", "teacher", changed, {})
    assert [outcome.already_done for outcome in distill(settings)] == [False, False]
    assert not same(before, weights(settings, "student-2"))


def test_a_stopped_round_resumes_to_the_same_weights(begun, monkeypatch):
    whole, parts = (begun(folder, rounds=2, steps=2) for folder in ("whole", "parts"))
    distill(whole)
    calls = []
    original = TeacherMasks.added_to

    def stop_in_the_second_round(self, batch, step):
        calls.append(step)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.01)
        return original(self, batch, step)

    monkeypatch.setattr(TeacherMasks, "added_to", stop_in_the_second_round)
    with pytest.raises(Interrupted, match="distill-student-2: stopped after step 1 of 2"):
        distill(parts)
    assert [outcome.already_done for outcome in distill(parts)] == [True, False]
    assert calls == [0, 1, 0, 1]
    assert same(weights(whole, "student-2"), weights(parts, "student-2"))


def test_a_threshold_of_one_is_plain_further_training(begun, shapes):
    settings = begun(score_threshold=1.0, name="control", steps=2)
    (outcome,) = distill(settings)
    assert outcome.artifact == "proposals/control-1"
    assert outcome.results["pseudo_masks"] == {}
    options = DistillOptions(**{**DISTILL, "steps": 2}).training(TrainProposalsOptions(**TRAINING))
    seed = seed_of(0, 1)
    _, student = built_proposer(settings.recipe.section("proposer"))
    student.load_state_dict(weights(settings, "teacher"))
    source = ProposalExamples(CocoDataset(shapes, "train"), options, seed=seed)
    optimizer = options.optimizer(student)
    for step in range(options.steps):
        optimizer.zero_grad()
        batch = source.batch_at(step)
        losses = proposal_losses(student, batch, options=options, seed=seed, step=step, device=CPU)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), options.gradient_clip)
        optimizer.step()
    control = weights(settings, "control-1")
    for name, tensor in student.state_dict().items():
        assert torch.allclose(tensor, control[name], atol=1e-6), name


def test_a_series_of_its_own_name_goes_on_from_itself(begun):
    distill(begun(rounds=2))
    one, two = distill(begun(rounds=2, score_threshold=1.0, name="control"))
    assert [one.results["teacher"], two.results["teacher"]] == ["teacher", "control-1"]
    settings = begun()
    assert not same(weights(settings, "student-1"), weights(settings, "control-1"))
    assert [outcome.already_done for outcome in distill(begun(rounds=2))] == [True, True]


def test_two_processes_reach_the_students_of_one(begun):
    one, two = begun("one", rounds=2), begun("two", rounds=2)
    distill(one)
    two.run.save_recipe(two.recipe)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["--nproc-per-node=2", "-m", "--", "ovseg_cli", "distill", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVSEG_RUN": str(two.run.path)}
    subprocess.run(
        [*torchrun, *command], check=True, env=environment, capture_output=True, timeout=300
    )
    expected, found = weights(one, "student-2"), weights(two, "student-2")
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], atol=2e-6), name
    records = [entry for entry in two.run.manifest() if entry["stage"] == "distill"]
    assert [entry["artifact"] for entry in records] == [
        "proposals/student-1",
        "proposals/student-2",
    ]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("overlap", "area", "overlap: expected one of dice, iou"),
        ("score_threshold", 1.5, "score_threshold: 1.5 is not less than or equal to 1"),
        ("rounds", 0, "rounds: 0 is not greater than 0"),
        ("name", "../away", r"\[distill\] name: '../away' cannot be part of a file's name"),
    ],
)
def test_options_that_cannot_be_used(begun, option, value, message):
    with pytest.raises(RecipeError, match=message):
        distill(begun(**{option: value}))


def test_a_batch_that_cannot_be_shared_out_is_a_clear_error(begun, monkeypatch):
    monkeypatch.setattr(stage.distributed, "world_size", lambda: 2)
    with pytest.raises(RecipeError, match=r"\[distill\] batch_size: 3 images cannot be shared"):
        distill(begun(batch_size=3))


def test_an_image_size_that_the_proposer_cannot_take_is_a_clear_error(begun):
    settings = begun()
    training = {**TRAINING, "image_size": 100}
    recipe = Recipe("a test", 0, {**settings.recipe.sections, "train_proposals": training})
    message = r"\[train_proposals\] image_size: 100 is not a multiple of 32, as the proposer needs"
    with pytest.raises(RecipeError, match=message):
        distill(replace(settings, recipe=recipe))


def test_a_missing_teacher_is_named_with_the_command_that_makes_it(begun):
    with pytest.raises(RunError, match=r"no proposals/student-4.*make it with 'ovseg distill"):
        distill(begun(name="late", teacher="student-4"))


def test_a_teacher_of_another_model_is_named(begun):
    settings = begun()
    sections = settings.recipe.sections
    proposer = {**sections["proposer"], "queries": 7}
    other = Recipe("a test", 0, {**sections, "proposer": proposer})
    with pytest.raises(CheckpointError, match="trained with queries 5, but the recipe's"):
        distill(replace(settings, recipe=other))


class Given:
    """A teacher that proposes what it is told, image after image."""

    def __init__(self, *masks: Tensor, scores: float = 0.95) -> None:
        self.masks, self.scores = list(masks), scores

    def propose(self, framed: FramedImage) -> Proposals:
        raise AssertionError("a batch is asked for")

    def propose_batch(self, images: Tensor) -> list[Proposals]:
        size = (images.shape[-2], images.shape[-1])
        frame = Frame(padded=size, resized=size, original=size)
        now, self.masks = self.masks[: len(images)], self.masks[len(images) :]
        return [
            Proposals(40.0 * masks - 20, frame, torch.full((len(masks),), self.scores))
            for masks in now
        ]


def teacher_masks(teacher: Given, **options: Any) -> TeacherMasks:
    chosen = DistillOptions(**{"points": 2048, **options})
    return chosen.teacher_masks(teacher, seed=3, device=CPU)


def columns(*ranges: tuple[int, int]) -> Tensor:
    masks = torch.zeros(len(ranges), 32, 32, dtype=torch.bool)
    for mask, (first, last) in zip(masks, ranges, strict=True):
        mask[:, first:last] = True
    return masks


PROPOSED = (columns((0, 9), (12, 20)), columns((4, 12), (5, 13)))
ANNOTATED = (columns((0, 8)), columns())
BATCH = Batch(torch.zeros(2, 3, 32, 32), ANNOTATED, (7, 8))


def test_added_masks_follow_the_annotated_ones():
    full = teacher_masks(Given(*PROPOSED)).added_to(BATCH, step=0)
    assert torch.equal(full.masks[0], columns((0, 8), (12, 20)))
    assert torch.equal(full.masks[1], columns((4, 12)))
    assert full.images is BATCH.images
    assert full.image_ids == BATCH.image_ids


def test_masks_are_compared_at_the_images_size():
    coarse = columns((0, 2), (4, 6))[:, ::4]  # (2, 8, 32)
    coarse = coarse[:, :, :8]
    full = teacher_masks(Given(coarse)).added_to(Batch(BATCH.images[:1], ANNOTATED[1:], (8,)), 0)
    assert torch.equal(full.masks[0], columns((0, 8), (16, 24)))


def test_what_is_added_to_an_image_does_not_depend_on_its_batch():
    noise = torch.rand(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    blobs = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) > 0.5
    options = {"points": 40, "overlap_threshold": 0.6}
    together = teacher_masks(Given(*blobs), **options).added_to(BATCH, step=5)
    for index in range(2):
        part = Batch(BATCH.images[[index]], (ANNOTATED[index],), (BATCH.image_ids[index],))
        alone = teacher_masks(Given(blobs[index]), **options).added_to(part, step=5)
        assert torch.equal(alone.masks[0], together.masks[index])


def test_a_low_object_score_adds_nothing():
    full = teacher_masks(Given(*PROPOSED, scores=0.8)).added_to(BATCH, step=0)
    assert torch.equal(full.masks[0], ANNOTATED[0])
    assert torch.equal(full.masks[1], ANNOTATED[1])


def test_with_a_threshold_of_one_the_teacher_is_not_asked():
    teacher = Given(*PROPOSED, scores=1.0)
    assert teacher_masks(teacher, score_threshold=1.0).added_to(BATCH, step=0) is BATCH
    assert len(teacher.masks) == 2


def test_a_teacher_that_knows_every_mask_is_all_right(shapes):
    dataset = CocoDataset(shapes, "val")
    seen = torch.tensor(dataset.vocabulary.seen)
    side = dataset[0].image.shape[-1]
    teacher = Given(*(sample.masks for sample in dataset))
    chosen = teacher_masks(teacher, overlap="iou", points=None)
    figures = chosen.quality(dataset, side, images=10)
    unseen = sum(int((~seen[sample.labels]).sum()) for sample in dataset)
    assert unseen
    assert figures["images"] == len(dataset)
    assert figures["per_image"] == unseen / len(dataset)
    assert (figures["precision"], figures["coverage"]) == (1, 1)


def test_masks_of_seen_classes_alone_are_counted_and_not_judged(shapes):
    dataset = CocoDataset(shapes, "train")
    side = dataset[0].image.shape[-1]
    teacher = Given(*(torch.ones(1, side, side, dtype=torch.bool) for _ in dataset))
    figures = teacher_masks(teacher).quality(dataset, side, images=2)
    assert figures == {"images": 2, "per_image": 0}
