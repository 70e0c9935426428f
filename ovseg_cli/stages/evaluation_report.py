"""The page of an evaluation: its figures, and what was kept of the images on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg_cli.report.confusions import most_confused, most_confused_pixels
from ovseg_cli.report.evaluation import EvaluationReport, evaluation_page
from ovseg_cli.report.page import circumstances
from ovseg_cli.run import versions
from ovseg_cli.stages.report_images import ReportImages
from ovseg_cli.stages.scores import Results, Scores, results_table, sweep_table
from ovseg_cli.storage import write_text

FILE = "report.html"
TITLES = {"sweep": "Ensembles", "input_sizes": "Input sizes"}
PLAIN_FACTS = ("dataset", "target", "protocol", "recipe", "seed", "device", "precision", "seconds")


def write_report(
    folder: Path,
    what: Mapping[str, Any],
    results: Results,
    per_class: Sequence[Results],
    scores: Scores,
    images: ReportImages,
    tables: Mapping[str, Sequence[Results]],
) -> None:
    """Writes report.html.

    Args:
        folder: of the results; its name is the evaluation's.
        what: what was scored and how, as metrics.json has it.
        results: means by metric and group of classes, 0 to 1.
        per_class: a row a class.
        scores: with the confusion matrix of the semantic maps, if these were scored.
        images: what was kept of the images.
        tables: further results by the names of `TITLES`, see `sweep_table`; empty ones are left
            out.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    names = images.vocabulary.names
    report = EvaluationReport(
        dataset=what["dataset"],
        name=folder.name,
        results=results,
        scores=results_table(results),
        per_class=per_class,
        pixels=(
            []
            if scores.semantic is None
            else most_confused_pixels(scores.semantic.confusion, names)
        ),
        segments=most_confused(images.mistaken, images.annotated.tolist(), names),
        best=images.best(),
        worst=images.worst(),
        picture_score=images.score_name,
        tables={TITLES[name]: sweep_table(rows) for name, rows in tables.items() if rows},
        circumstances=_circumstances(what),
    )
    write_text(folder / FILE, evaluation_page(report))


def _circumstances(what: Mapping[str, Any]) -> dict[str, str]:
    known = {name: str(what[name]) for name in PLAIN_FACTS if what[name] is not None}
    return {
        **circumstances(),
        **known,
        **{artifact: f"sha256 {digest}…" for artifact, digest in what["artifacts"].items()},
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
