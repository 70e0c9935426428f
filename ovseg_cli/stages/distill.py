"""`ovseg distill`: rounds in which a student also learns masks that its teacher found.

MasQCLIP (Xu et al., ICCV 2023), progressive distillation. The teacher of a round is the student of
the one before, frozen; it sees the same augmented images as the student, and its confident masks
that overlap with no annotated mask are annotations too, see `losses.pseudo_masks`. Every round
starts from its teacher's weights with a fresh optimizer.

Differs from the released scripts: they do one round, the paper does two.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ovseg_cli.checkpoints.proposer_parts import takes_clip, trained_proposer_of, vocabulary_json
from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.pseudo_masks import Overlap
from ovseg_cli.proposers import PROPOSERS, TrainableProposer
from ovseg_cli.recipe import Share, build
from ovseg_cli.run import file_hash, fingerprint_of
from ovseg_cli.stages.learning import fit_in_run
from ovseg_cli.stages.proposal_examples import Batch, ProposalExamples
from ovseg_cli.stages.proposal_losses import proposal_losses
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    annotation_hashes,
    check_name,
    dataset_of,
    dataset_options,
    run_stage,
    train_split,
)
from ovseg_cli.stages.teacher_masks import TeacherMasks
from ovseg_cli.stages.train_proposals import SECTIONS, built_proposer
from ovseg_cli.stages.training_images import check_shares, check_side
from ovseg_cli.training import distributed
from ovseg_cli.training.optimizer import Decay
from ovseg_cli.training.seeds import seed_of

STAGE = "distill"


@dataclass(frozen=True)
class DistillOptions:
    """How to distil; the defaults are MasQCLIP's. The rest is the recipe's `train_proposals`.

    Attributes:
        rounds: how many students, one after the other.
        name: of the students: proposals/<name>-1, <name>-2, ...
        teacher: the proposals artifact that the first round starts from.
        steps: optimizer steps a round.
        batch_size: images a step, over all processes.
        lr: the learning rate; released for training on all of COCO's classes: 1e-5.
        decay: of the learning rate in each round: `none`, `step` or `cosine`.
        warmup: steps of linear warm-up in each round.
        score_threshold: a teacher's mask needs a greater score; 1 adds none, and the teacher is
            not asked, which makes plain further training.
        overlap: `dice`, as released, or `iou`, as published.
        overlap_threshold: a teacher's mask needs a smaller overlap with all others.
        points: random points at which overlap is measured; None for every pixel.
        statistics: a split on which the teacher's masks are judged by the masks of unseen classes,
            or only counted where it has none; None for the train split.
        statistics_images: how many of its images.
    """

    rounds: PositiveInt = 2
    name: str = "student"
    teacher: str = "teacher"
    steps: PositiveInt = 30_000
    batch_size: PositiveInt = 4
    lr: NonNegativeFloat = 1e-4
    decay: Decay = "none"
    warmup: NonNegativeInt = 0
    score_threshold: Share = 0.8
    overlap: Overlap = "dice"
    overlap_threshold: Share = 0.1
    points: PositiveInt | None = 12544
    statistics: str | None = None
    statistics_images: PositiveInt = 500

    def training(self, options: TrainProposalsOptions) -> TrainProposalsOptions:
        """How a round's student is trained.

        Args:
            options: the teacher's training.
        """
        return replace(
            options,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            decay=self.decay,
            warmup=self.warmup,
        )

    def artifact(self, number: int) -> str:
        """The name of the proposals that a round makes; of round 0 that of the first teacher."""
        return f"{self.name}-{number}" if number else self.teacher

    def teacher_masks(
        self, teacher: TrainableProposer, *, seed: int, device: torch.device
    ) -> TeacherMasks:
        """The choice of a teacher's masks.

        Args:
            teacher: frozen, in eval mode, on the device.
            seed: of the random points.
            device: where masks are compared.
        """
        return TeacherMasks(
            teacher,
            score_threshold=self.score_threshold,
            overlap=self.overlap,
            overlap_threshold=self.overlap_threshold,
            points=self.points,
            seed=seed,
            device=device,
        )


def distill(settings: Settings) -> list[Outcome]:
    """Trains the students of all rounds and saves them as proposals/<name>-<round>.

    Finished rounds are left alone, unless what they were made from has changed.

    Args:
        settings: run directory, recipe, device.

    Raises:
        RecipeError: an option that cannot be used.
        RunError: the run directory lacks the first teacher.
        InputError: the dataset has no annotated masks.
        CheckpointError: the teacher's weights are damaged or of another model.
    """
    recipe = settings.recipe
    _check_proposer(recipe.section("proposer"))
    options = build(STAGE, recipe.section(STAGE), DistillOptions)
    section = recipe.section("train_proposals")
    training = options.training(build("train_proposals", section, TrainProposalsOptions))
    started = distributed.start(settings.device)
    try:
        check_shares(STAGE, options.batch_size)
        check_side("train_proposals", training.image_size)
        check_name(STAGE, options.name)
        rounds = range(1, options.rounds + 1)
        return [_round(settings, options, training, number) for number in rounds]
    finally:
        if started:
            distributed.stop()


def _round(
    settings: Settings, options: DistillOptions, training: TrainProposalsOptions, number: int
) -> Outcome:
    name = options.artifact(number)
    return run_stage(
        settings,
        STAGE,
        lambda fingerprint: _student(settings, options, training, number, fingerprint),
        artifact=f"proposals/{name}",
        sections=SECTIONS,
        inputs=_inputs(settings, options, number),
        checkpoint_name=f"{STAGE}-{name}",
    )


def _inputs(settings: Settings, options: DistillOptions, number: int) -> dict[str, str]:
    """What decides a round's result: options, teacher and annotations."""
    of_all_rounds = {"rounds", "name", "teacher"}
    own = {key: value for key, value in asdict(options).items() if key not in of_all_rounds}
    hashes = {f"options/{STAGE}": fingerprint_of(own, number)}
    teacher = options.artifact(number - 1)
    if settings.run.has_artifact("proposals", teacher):
        weights = settings.run.artifact_path("proposals", teacher)
        hashes[f"proposals/{teacher}"] = file_hash(weights)
    splits = (train_split(settings), options.statistics)
    kind = dataset_options(settings).annotations
    files = [f"{kind}_{split}.json" for split in splits if split]
    return hashes | annotation_hashes(settings, *files, "vocabulary.json")


def _student(
    settings: Settings,
    options: DistillOptions,
    training: TrainProposalsOptions,
    number: int,
    fingerprint: str,
) -> dict[str, Any]:
    run, device, seed = settings.run, settings.device, seed_of(settings.recipe.seed, number)
    torch.manual_seed(seed)
    teacher_name, student_name = options.artifact(number - 1), options.artifact(number)
    teacher = trained_proposer_of(run, settings.recipe, device=device, name=teacher_name)
    assert isinstance(teacher, TrainableProposer)  # see _check_proposer
    name, student = built_proposer(settings.recipe.section("proposer"))
    student.load_state_dict(teacher.state_dict())
    teacher_masks = options.teacher_masks(teacher, seed=seed, device=device)
    split = train_split(settings)
    dataset = dataset_of(settings, split, part="seen")
    judged = dataset_of(settings, options.statistics or split)
    examples = ProposalExamples(dataset, training, seed=seed)

    def losses_of(module: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        full = teacher_masks.added_to(batch, step)
        return proposal_losses(module, full, options=training, seed=seed, step=step, device=device)

    result = fit_in_run(
        settings,
        training,
        student.to(device),
        batch_at=examples.batch_at,
        losses_of=losses_of,
        name=f"{STAGE}-{student_name}",
        fingerprint=fingerprint,
    )
    if distributed.is_main():
        words = vocabulary_json(dataset.vocabulary)
        section = settings.recipe.section("proposer")
        model = {"name": name, "options": section, "vocabulary": words}
        run.save_artifact("proposals", student_name, student.state_dict(), model)
    images = options.statistics_images
    return {
        "seconds": round(result.seconds, 1),
        "teacher": teacher_name,
        "images": len(examples.images.indices),
        "skipped": result.skipped,
        "losses": result.losses,
        "pseudo_masks": teacher_masks.quality(judged, training.image_size, images=images),
    }


def _check_proposer(section: dict[str, Any]) -> None:
    name = section.get("name")
    if name in PROPOSERS and takes_clip(PROPOSERS[name]):
        raise RecipeError(
            f"[proposer] name: {name} learns the masks' classes, and the masks that a "
            "teacher finds have none; distil mask2former or mask_rcnn"
        )
