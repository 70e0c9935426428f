"""`ovseg evaluate`: scores the segmenter of a run directory on an annotated split.

What is scored is what `predict` runs. Beside the three tasks it reports what limits them: how many
annotated masks the proposals cover, how well annotated masks are named, and how well CLIP names
crops of them without any of our parts.
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_cli.checkpoints.run_parts import artifacts_of
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.coco_files import Kind
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.inference import TASKS, Task, upsample
from ovseg_cli.progress import progress
from ovseg_cli.proposers import ground_truth_proposals
from ovseg_cli.recipe import build
from ovseg_cli.run import StageRecord, file_hash, fingerprint_of
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.crops import crop_around, crop_side_for, name_crops
from ovseg_cli.stages.scores import Results, Scores
from ovseg_cli.stages.session import Settings, dataset_root
from ovseg_cli.storage import write_json, write_text
from ovseg_cli.structures import Sample, Vocabulary
from ovseg_cli.vocabulary.labels import parse_labels

STAGE = "evaluate"
HELD_OUT = "held_out"  # a segment's flag in the synthetic set: a composition not seen in training


@dataclass(frozen=True)
class EvaluateOptions:
    """What to score.

    Attributes:
        tasks: any of panoptic, semantic and instance.
        annotations: `panoptic`, or `instances` where a dataset has things alone.
        oracle_masks: score with the annotated masks as proposals.
        mask_accuracy: also name the annotated masks.
        crop_accuracy: also name square crops of the annotated segments by CLIP alone.
        crop_scale: side of a thing's crop, in longer sides of its box.
        crop_side: pixels at which CLIP sees crops, None for its own size; less is a window, for a
            small CLIP that has learned from windows.
        images: score the first so many images alone; None for the whole split.
    """

    tasks: tuple[Task, ...] = TASKS
    annotations: Kind = "panoptic"
    oracle_masks: bool = False
    mask_accuracy: bool = True
    crop_accuracy: bool = True
    crop_scale: PositiveFloat = 1.1
    crop_side: PositiveInt | None = None
    images: PositiveInt | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        results: means by metric and group of classes, 0 to 1.
        per_class: a row a class.
        folder: where metrics.json and per_class.csv are.
        seconds: wall-clock time.
    """

    results: Results
    per_class: list[Results]
    folder: Path
    seconds: float


def evaluate(
    settings: Settings, *, split: str | None = None, name: str | None = None
) -> Evaluation:
    """Scores a run's segmenter and writes evaluation/<dataset>-<split>/<name>/.

    Args:
        settings: run directory, recipe, device, precision.
        split: instead of the recipe's `dataset.test`.
        name: of the results' folder, instead of the artifacts' names.

    Raises:
        RunError: the run directory lacks an artifact.
        RecipeError: an option that cannot be used.
        InputError: the dataset cannot be read.
    """
    run, recipe = settings.run, settings.recipe
    options = build(STAGE, recipe.section(STAGE), EvaluateOptions)
    split = split or str(recipe.section("dataset").get("test", "test"))
    dataset = CocoDataset(dataset_root(settings), split, annotations=options.annotations)
    segmenter = Segmenter.from_run(
        run,
        recipe,
        device=settings.device,
        precision=settings.precision_or("fp32"),
        with_proposer=not options.oracle_masks,
    )
    vocabulary = scored_vocabulary(dataset.vocabulary, segmenter.vocabulary_options.labels)
    artifacts = artifacts_of(run, recipe, proposer=not options.oracle_masks)
    name = name or _default_name(artifacts, options.oracle_masks)
    start = time.monotonic()
    scores = score(segmenter, dataset, vocabulary, options)
    results, per_class = scores.compute()
    seconds = time.monotonic() - start
    evaluation = Evaluation(
        results, per_class, run.path / "evaluation" / dataset.name / name, seconds
    )
    inputs = {artifact: _hash(settings, artifact) for artifact in artifacts}
    _write(evaluation, settings, dataset.name, inputs)
    return evaluation


def scored_vocabulary(classes: Vocabulary, labels: str | None) -> Vocabulary:
    """The dataset's classes, with the words that a recipe has for them.

    Args:
        classes: the dataset's.
        labels: words in the order of the classes, in the syntax of `--labels`.

    Raises:
        RecipeError: there are more or fewer labels than classes.
        VocabularyError: the labels cannot be used.
    """
    if labels is None:
        return classes
    words = parse_labels(labels)
    if len(words) != len(classes):
        raise RecipeError(
            f"[vocabulary] labels: {len(words)} classes, but the dataset has {len(classes)}; "
            "name one for each, in the order of its category ids"
        )
    return Vocabulary(words.names, words.synonyms, classes.is_thing, classes.seen)


@torch.inference_mode()
def score(
    segmenter: Segmenter, dataset: CocoDataset, vocabulary: Vocabulary, options: EvaluateOptions
) -> Scores:
    """One pass over a dataset.

    Args:
        segmenter: what is scored.
        dataset: annotated images.
        vocabulary: its classes, as they are named.
        options: what to score.

    Raises:
        InputError: the split is empty, or an image or mask cannot be read.
    """
    tasks = options.tasks if options.annotations == "panoptic" else ("instance",)
    scores = Scores(vocabulary, tasks=tasks)
    count = min(len(dataset), options.images or len(dataset))
    if not count:
        raise InputError(f"{dataset.name}: no images to score")
    title = f"evaluate {dataset.name}"
    for index in progress(range(count), title=title, unit="image"):
        sample = dataset[index]
        held_out = [bool(entry.get(HELD_OUT)) for entry in dataset.records[index].segments]
        _score_sample(segmenter, scores, sample, vocabulary, options, torch.tensor(held_out).bool())
    return scores


def _score_sample(
    segmenter: Segmenter,
    scores: Scores,
    sample: Sample,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    held_out: Tensor,
) -> None:
    tasks = [task for task in TASKS if getattr(scores, task) is not None]
    framed = segmenter.frame(sample.image)
    given = ground_truth_proposals(sample, framed.frame)
    proposals = given if options.oracle_masks else segmenter.propose(framed)
    encoded, probabilities = segmenter.classify(framed, proposals, vocabulary)
    result = segmenter.infer(encoded, probabilities, proposals, vocabulary, tasks=tasks)
    scores.update(result, sample)
    if not options.oracle_masks:
        masks = upsample(proposals.mask_logits.float(), proposals.frame) > 0
        scores.update_recall(masks.cpu(), sample)
    counted = ~sample.is_crowd
    if options.mask_accuracy and counted.any():
        if not options.oracle_masks:
            _, probabilities = segmenter.classify(framed, given, vocabulary)
        found = probabilities.argmax(-1).cpu()
        _count(scores, "mask_accuracy", found, sample.labels[counted], held_out[counted])
    counted = counted & sample.masks.flatten(1).any(1)  # a tiny polygon may cover no pixel
    if options.crop_accuracy and counted.any():
        found = _name_crops(segmenter, sample, counted, vocabulary, options)
        _count(scores, "crop_accuracy", found, sample.labels[counted], held_out[counted])


def _name_crops(
    segmenter: Segmenter,
    sample: Sample,
    counted: Tensor,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> Tensor:
    side = crop_side_for(segmenter.clip, options.crop_side)
    segments = zip(sample.masks[counted], sample.labels[counted].tolist(), strict=True)
    crops = [
        crop_around(
            sample.image,
            mask,
            is_thing=vocabulary.is_thing[label],
            scale=options.crop_scale,
            side=side,
        )
        for mask, label in segments
    ]
    texts = segmenter.text_embeddings(vocabulary)
    return name_crops(segmenter.clip, texts, torch.stack(crops))


def _count(scores: Scores, name: str, found: Tensor, labels: Tensor, held_out: Tensor) -> None:
    scores.update_named(name, found, labels)
    if held_out.any():
        scores.update_named(f"{name}_held_out", found[held_out], labels[held_out])


def _default_name(artifacts: Sequence[str], oracle_masks: bool) -> str:
    names = [artifact.partition("/")[2] for artifact in artifacts]
    if oracle_masks:
        names.insert(0, "ground_truth")
    if len(names) > 2:
        names.remove("base")  # what was tuned sits on it
    return "-".join(names)


def _hash(settings: Settings, artifact: str) -> str:
    kind, _, name = artifact.partition("/")
    return file_hash(settings.run.artifact_path(kind, name))


def _write(
    evaluation: Evaluation, settings: Settings, dataset: str, inputs: dict[str, str]
) -> None:
    content: dict[str, Any] = {
        "dataset": dataset,
        "recipe": settings.recipe.name,
        "seed": settings.recipe.seed,
        "device": str(settings.device),
        "precision": settings.precision_or("fp32"),
        "artifacts": inputs,
        "seconds": round(evaluation.seconds, 1),
        "results": evaluation.results,
    }
    write_json(evaluation.folder / "metrics.json", content)
    write_text(evaluation.folder / "per_class.csv", _csv(evaluation.per_class))
    record = StageRecord(
        stage=STAGE,
        fingerprint=fingerprint_of(STAGE, dataset, settings.recipe.sections, inputs),
        seconds=round(evaluation.seconds, 1),
        seed=settings.recipe.seed,
        device=str(settings.device),
        inputs=inputs,
        results={"folder": str(evaluation.folder.relative_to(settings.run.path))},
    )
    with settings.run.lock():
        settings.run.record(record)


def _csv(rows: Sequence[Results]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
