"""`ovseg evaluate`: scores the segmenter of a run directory on an annotated split.

What is scored is what `predict` runs. Beside the three tasks it reports what limits them: how many
annotated masks the proposals cover, how well annotated masks are named, and how well CLIP names
crops of them without any of our parts.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovseg_cli.datasets.class_lists import Part
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.errors import RecipeError, UsageError
from ovseg_cli.recipe import build
from ovseg_cli.run import StageRecord, fingerprint_of
from ovseg_cli.stages.beside import beside_of
from ovseg_cli.stages.evaluate_options import EvaluateOptions, Protocol, check_options
from ovseg_cli.stages.evaluation_files import write_figures
from ovseg_cli.stages.evaluation_report import FILE as REPORT
from ovseg_cli.stages.evaluation_report import write_report
from ovseg_cli.stages.oracles import with_oracle
from ovseg_cli.stages.report_images import ReportImages
from ovseg_cli.stages.scored_segmenter import scored_segmenter
from ovseg_cli.stages.scores import Results, Scores
from ovseg_cli.stages.scoring import score
from ovseg_cli.stages.session import Settings, dataset_of, dataset_options
from ovseg_cli.stages.targets import target_dataset, target_options, with_target

STAGE = "evaluate"
PARTS: dict[Protocol, Part] = {
    "generalized": "all",
    "constrained_base": "seen",
    "constrained_novel": "unseen",
}


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        results: means by metric and group of classes, 0 to 1.
        per_class: a row a class.
        folder: where metrics.json, per_class.csv and report.html are, and sweep.json and
            input_sizes.json if these were asked for.
        seconds: wall-clock time.
        sweep: a row a setting of the ensemble, see `Sweep`.
        input_sizes: a row a size, see `InputSizes`.
    """

    results: Results
    per_class: list[Results]
    folder: Path
    seconds: float
    sweep: list[Results] = field(default_factory=list)
    input_sizes: list[Results] = field(default_factory=list)


def evaluate(
    settings: Settings,
    *,
    split: str | None = None,
    name: str | None = None,
    target: str | None = None,
    sweep: bool = False,
    oracle: str | None = None,
    report: bool = True,
) -> Evaluation:
    """Scores a run's segmenter and writes evaluation/<dataset>-<split>/<name>/.

    The names of a class list and of a constrained protocol are added to the dataset's; a target has
    its own name in its place.

    Args:
        settings: run directory, recipe, device, precision.
        split: instead of the recipe's `dataset.test`.
        name: of the results' folder, instead of the artifacts' names.
        target: one of the recipe's `targets`, instead of its dataset.
        sweep: also score FC-CLIP's settings of the ensemble where the recipe names no others.
        oracle: `masks` or `classes`: sets the recipe's option that takes them from the annotations,
            see `with_oracle`; the results' folder is then called by it.
        report: also write report.html, a page with tables, bars, and the best and worst images.

    Raises:
        RunError: the run directory lacks an artifact, or another process writes there.
        UsageError: the recipe names no such target, or a split is given with it; there is no such
            oracle; or the name is no folder's.
        RecipeError: an option that cannot be used.
        InputError: the dataset cannot be read.
    """
    if oracle is not None:
        settings = replace(settings, recipe=with_oracle(settings.recipe, oracle))
    _check_name(name)
    options, dataset, title = _what_to_score(settings, split, target, sweep=sweep)
    if target is not None:
        settings = replace(settings, recipe=with_target(settings.recipe, target))
    scored = scored_segmenter(settings, options)
    segmenter = scored.segmenter
    vocabulary = scored.vocabulary(dataset.vocabulary)
    beside = beside_of(segmenter, vocabulary, options, kind=dataset.kind, settings=settings)
    with settings.run.lock():
        pass  # whoever writes there is met before the images, and not when results are recorded
    start = time.monotonic()
    images = ReportImages(vocabulary) if report else None
    scores = score(
        segmenter,
        dataset,
        vocabulary,
        options,
        beside=beside.updates(),
        on_result=None if images is None else images.update,
    )
    results, per_class = scores.compute()
    results |= beside.results()
    evaluation = Evaluation(
        results,
        per_class,
        settings.run.path / "evaluation" / title / (name or scored.name),
        time.monotonic() - start,
        [] if beside.sweep is None else beside.sweep.compute(),
        [] if beside.input_sizes is None else beside.input_sizes.compute(),
    )
    what = {"dataset": title, "protocol": options.protocol, "target": target}
    _write(evaluation, settings, what, scored.inputs, scores=scores, images=images)
    _record(evaluation, settings, what, scored.inputs)
    return evaluation


def _check_name(name: str | None) -> None:
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UsageError(f"--name {name}: is no name of a folder; leave out slashes")


def _what_to_score(
    settings: Settings, split: str | None, target: str | None, *, sweep: bool
) -> tuple[EvaluateOptions, CocoDataset | SemanticMaps, str]:
    """Options, annotated images, and the name of the results' folder."""
    recipe = settings.recipe if target is None else with_target(settings.recipe, target)
    options = build(STAGE, recipe.section(STAGE), EvaluateOptions)
    if sweep and options.sweep is None:
        options = replace(options, sweep={})
    check_options(options)
    if target is not None:
        if split is not None:
            raise UsageError(f"--split {split}: the target {target} names its own; leave it out")
        if options.protocol != "generalized":
            raise RecipeError(
                f"[evaluate] protocol: {options.protocol} is for the recipe's own dataset; leave "
                "it out for a target"
            )
        title = f"{target}-{target_options(recipe, target).split}"
        return options, target_dataset(settings, target), title
    split = split or dataset_options(settings).test
    dataset = dataset_of(settings, split, part=PARTS[options.protocol])
    classes = dataset_options(settings).classes
    title = dataset.name if classes is None else f"{dataset.name}-{classes}"
    if options.protocol == "generalized":
        return options, dataset, title
    if not dataset.vocabulary.seen:
        raise RecipeError(
            f"[evaluate] protocol: {dataset.name} does not say which classes are seen; set "
            "dataset.classes to a built-in vocabulary that does, such as coco_48_17"
        )
    return options, dataset, f"{title}-{options.protocol}"


def _write(
    evaluation: Evaluation,
    settings: Settings,
    what: dict[str, Any],
    inputs: dict[str, str],
    *,
    scores: Scores,
    images: ReportImages | None,
) -> None:
    folder, results, per_class = evaluation.folder, evaluation.results, evaluation.per_class
    content = {
        **what,
        "recipe": settings.recipe.name,
        "seed": settings.recipe.seed,
        "device": str(settings.device),
        "precision": settings.precision_or("fp32"),
        "artifacts": inputs,
        "seconds": round(evaluation.seconds, 1),
    }
    tables = {"sweep": evaluation.sweep, "input_sizes": evaluation.input_sizes}
    write_figures(folder, content, results, per_class, tables)
    (folder / REPORT).unlink(missing_ok=True)  # of an earlier evaluation
    if images is not None:
        write_report(folder, content, results, per_class, scores, images, tables)


def _record(
    evaluation: Evaluation, settings: Settings, what: dict[str, Any], inputs: dict[str, str]
) -> None:
    record = StageRecord(
        stage=STAGE,
        fingerprint=fingerprint_of(STAGE, what, settings.recipe.sections, inputs),
        seconds=round(evaluation.seconds, 1),
        seed=settings.recipe.seed,
        device=str(settings.device),
        inputs=inputs,
        results={"folder": str(evaluation.folder.relative_to(settings.run.path))},
    )
    with settings.run.lock():
        settings.run.record(record)
