"""All metrics of an evaluation, updated image by image from one annotated sample."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ovseg_cli.inference import Task
from ovseg_cli.metrics.average_precision import AveragePrecision
from ovseg_cli.metrics.class_groups import class_groups, harmonic_mean
from ovseg_cli.metrics.mask_accuracy import MaskAccuracy
from ovseg_cli.metrics.panoptic_quality import PanopticQuality
from ovseg_cli.metrics.proposal_recall import ProposalRecall
from ovseg_cli.metrics.semantic_iou import SemanticIou
from ovseg_cli.structures import Sample, Segmentation, Vocabulary

Results = dict[str, Any]

SWEEP_GROUPS = {"all": "", "base": " seen", "novel": " unseen"}
SWEEP_FIGURES = (
    ("PQ", "panoptic", "pq"),
    ("mIoU", "semantic", "miou"),
    ("mask AP", "instance", "ap"),
    ("masks named", "mask_accuracy", None),
)
TABLE_GROUPS = {
    "all": "all",
    "base": "base (seen)",
    "novel": "novel (unseen)",
    "harmonic": "harmonic",
    "things": "things",
    "stuff": "stuff",
}
TABLE_FIGURES = (
    ("mIoU", "semantic", "miou"),
    ("mIoU, classes of truth or prediction", "semantic", "miou_union"),
    ("PQ", "panoptic", "pq"),
    ("SQ", "panoptic", "sq"),
    ("RQ", "panoptic", "rq"),
    ("mask AP", "instance", "ap"),
    ("mask AP50", "instance", "ap50"),
    ("mask AP75", "instance", "ap75"),
    ("grounding PQ", "grounding.panoptic", "pq"),
    ("grounding mIoU", "grounding.semantic", "miou"),
    ("proposal recall at IoU 0.5", "proposal_recall", "recall50"),
    ("annotated masks named", "mask_accuracy", None),
    ("of these, held-out compositions", "mask_accuracy_held_out", None),
    ("annotated crops named by CLIP", "crop_accuracy", None),
    ("of these, held-out compositions", "crop_accuracy_held_out", None),
    ("half-covered masks above the whole one", "sensitivity", "half"),
    ("background-heavy masks above it", "sensitivity", "background"),
    ("one of the two above it", "sensitivity", "either"),
)


class Scores:
    """The metrics that apply to a dataset and to the tasks that are asked for."""

    def __init__(self, vocabulary: Vocabulary, *, tasks: Collection[Task]) -> None:
        """Starts empty.

        Args:
            vocabulary: the dataset's K classes.
            tasks: whose results are scored.
        """
        classes = len(vocabulary)
        self.vocabulary = vocabulary
        self.groups = class_groups(vocabulary)
        self.is_thing = torch.tensor(vocabulary.is_thing)
        self.semantic = SemanticIou(classes) if "semantic" in tasks else None
        self.panoptic = PanopticQuality(classes) if "panoptic" in tasks else None
        self.instance = AveragePrecision(classes) if "instance" in tasks else None
        self.recall = ProposalRecall(classes)
        self.named: dict[str, MaskAccuracy] = {}

    def update(self, result: Segmentation, sample: Sample) -> None:
        """Counts the three results of an image.

        Args:
            result: of the tasks that are scored.
            sample: the annotated image.
        """
        scores_maps = result.semantic is not None or result.panoptic is not None
        target = segment_map(sample) if scores_maps else None
        if self.semantic is not None and result.semantic is not None and target is not None:
            self.semantic.update(result.semantic, _classes_of(target, sample))
        if self.panoptic is not None and result.panoptic is not None and target is not None:
            labels = torch.tensor([s.label for s in result.segments], dtype=torch.int64)
            self.panoptic.update(result.panoptic, labels, target, sample.labels, sample.is_crowd)
        if self.instance is not None and result.instances is not None:
            things = self.is_thing[sample.labels]
            self.instance.update(
                result.instances,
                sample.masks[things],
                sample.labels[things],
                sample.is_crowd[things],
                absent=sample.absent,
                incomplete=sample.incomplete,
            )

    def update_recall(self, proposals: Bool[Tensor, "N H W"], sample: Sample) -> None:
        """Counts the annotated masks that a proposal covers.

        Args:
            proposals: (N, H, W) at the image's size.
            sample: the annotated image.
        """
        self.recall.update(proposals, sample.masks, sample.labels, sample.is_crowd)

    def update_named(
        self, name: str, prediction: Int[Tensor, " M"], target: Int[Tensor, " M"]
    ) -> None:
        """Counts masks or crops that were given and named.

        Args:
            name: what was named, the key of the result.
            prediction: (M,) class indices.
            target: (M,) class indices.
        """
        accuracy = self.named.setdefault(name, MaskAccuracy(len(self.vocabulary)))
        accuracy.update(prediction, target)

    def compute(self) -> tuple[Results, list[Results]]:
        """Means by group for every metric, and a row a class; 0 to 1, None where nothing counts."""
        means: Results = {}
        columns: dict[str, np.ndarray] = {}
        if self.semantic is not None:
            iou = self.semantic.compute(self.groups)
            means["semantic"] = self._by_group(
                lambda group: {"miou": iou.miou[group], "miou_union": iou.miou_union[group]}
            )
            columns["iou"] = iou.iou
        if self.panoptic is not None:
            quality = self.panoptic.compute(self.groups)
            means["panoptic"] = self._by_group(lambda group: asdict(quality.groups[group]))
            columns |= {"pq": quality.pq, "sq": quality.sq, "rq": quality.rq}
        if self.instance is not None:
            precision = self.instance.compute(self.groups)
            means["instance"] = self._by_group(lambda group: precision.groups[group])
            columns |= {"ap": precision.ap, "ap50": precision.ap50, "ap75": precision.ap75}
        if self.recall.annotated.any():
            recall = self.recall.compute(self.groups)
            means["proposal_recall"] = self._by_group(lambda group: recall.groups[group])
            columns |= {"recall50": recall.recall50, "annotated": recall.annotated}
        for name, metric in self.named.items():
            accuracy = metric.compute(self.groups)
            means[name] = dict(accuracy.groups)
            if accuracy.harmonic is not None:
                means[name]["harmonic"] = accuracy.harmonic
            columns[name] = accuracy.accuracy
        return plain(means), self._rows(columns)

    def _by_group(self, of: Callable[[str], dict[str, float]]) -> dict[str, dict[str, float]]:
        found = {group: of(group) for group in self.groups}
        if "base" in found and "novel" in found:
            base, novel = found["base"], found["novel"]
            found["harmonic"] = {
                name: harmonic_mean(base[name], novel[name]) for name in base if name != "classes"
            }
        return found

    def _rows(self, columns: dict[str, np.ndarray]) -> list[Results]:
        rows = []
        for label, name in enumerate(self.vocabulary.names):
            seen = self.vocabulary.seen[label] if self.vocabulary.seen else None
            row = {"class": name, "thing": self.vocabulary.is_thing[label], "seen": seen}
            rows.append(row | {key: plain(float(v[label])) for key, v in columns.items()})
        return rows


def results_table(results: Results) -> list[tuple[str, ...]]:
    """The results for people: a head, and a row a figure in percent, a column a group.

    Args:
        results: means by metric and group, 0 to 1.
    """
    grounding = {f"grounding.{key}": part for key, part in results.get("grounding", {}).items()}
    results = {**results, **grounding}
    groups = [group for group in TABLE_GROUPS if any(group in part for part in results.values())]
    rows = [("%", *(TABLE_GROUPS[group] for group in groups))]
    for title, metric, figure in TABLE_FIGURES:
        if metric in results:
            cells = [_percent(results[metric], group, figure) for group in groups]
            rows.append((title, *cells))
    return rows


def sweep_table(rows: Sequence[Results]) -> list[tuple[str, ...]]:
    """Several results for people: a head, and a row a setting, its figures in percent.

    Args:
        rows: settings by name, and `results`: means by metric and group, 0 to 1.
    """
    settings = [name for name in rows[0] if name != "results"]
    columns = [
        (f"{title}{suffix}", metric, group, figure)
        for title, metric, figure in SWEEP_FIGURES
        if metric in rows[0]["results"]
        for group, suffix in SWEEP_GROUPS.items()
        if group in rows[0]["results"][metric]
    ]
    head = (*settings, *(title for title, *_ in columns))
    body = [
        (
            *(str(row[name]) for name in settings),
            *(_percent(row["results"][metric], group, key) for _, metric, group, key in columns),
        )
        for row in rows
    ]
    return [head, *body]


def _percent(part: Results, group: str, figure: str | None) -> str:
    value = part.get(group)
    if figure is not None:
        value = value and value.get(figure)
    return "" if value is None else f"{100 * value:.1f}"


def segment_map(sample: Sample) -> Int[Tensor, "H W"]:
    """(H, W) 0 is void, i is the i-th annotated segment, from 1; the last where they overlap."""
    painted = np.zeros(sample.masks.shape[1:], dtype=np.int64)
    for number, mask in enumerate(sample.masks.cpu().numpy(), start=1):
        painted[mask] = number
    return torch.from_numpy(painted)


def class_map(sample: Sample) -> Int[Tensor, "H W"]:
    """(H, W) the annotated class of every pixel, -1 is void; crowds count as their class."""
    return _classes_of(segment_map(sample), sample)


def _classes_of(segments: Tensor, sample: Sample) -> Tensor:
    labels = torch.cat([torch.tensor([-1]), sample.labels])
    return labels.index_select(0, segments.flatten()).view_as(segments)


def plain(value: Any) -> Any:
    """Nested figures for JSON: None in the place of nan.

    Args:
        value: a figure, or a mapping of such values.
    """
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
