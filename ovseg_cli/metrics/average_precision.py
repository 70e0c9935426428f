"""Average precision of instance masks by COCO's own evaluation (pycocotools).

By LVIS's rules where an image's annotations are not of all classes (Gupta et al., CVPR 2019,
section 5): of an image's best 300 detections those of classes that nobody looked for do not count,
and unmatched ones of classes of which not every object is annotated are no false positives.
"""

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ovseg_cli.metrics.class_groups import Groups, group_means
from ovseg_cli.structures import Instances

MAX_DETECTIONS = 100  # of a class in an image
FEDERATED_DETECTIONS = 300  # LVIS's, of all classes in an image


@dataclass(frozen=True)
class AveragePrecisionResult:
    """Average precision, 0 to 1; nan where a class is not annotated.

    Attributes:
        ap: (K,) per class, mean over IoU 0.5 to 0.95.
        ap50: (K,) at IoU 0.5.
        ap75: (K,) at IoU 0.75.
        groups: `ap`, `ap50` and `ap75` as means by group name.
    """

    ap: np.ndarray
    ap50: np.ndarray
    ap75: np.ndarray
    groups: dict[str, dict[str, float]]


class AveragePrecision:
    """Gathers annotated and found masks as run lengths, and evaluates them at the end."""

    def __init__(self, classes: int) -> None:
        """Starts empty.

        Args:
            classes: K.
        """
        self.classes = classes
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []
        self._incomplete: dict[int, Collection[int]] = {}
        self._most = MAX_DETECTIONS

    def update(
        self,
        prediction: Instances,
        masks: Bool[Tensor, "M H W"],
        labels: Int[Tensor, " M"],
        is_crowd: Bool[Tensor, " M"],
        *,
        absent: Collection[int] | None = None,
        incomplete: Collection[int] = (),
    ) -> None:
        """Keeps an image's instances.

        Args:
            prediction: scored masks, best first; the best 100 of a class count.
            masks: (M, H, W) annotated things.
            labels: (M,) their class indices.
            is_crowd: (M,) COCO's crowd flag.
            absent: in LVIS, classes that were looked for and are not there; None where all classes
                were looked for.
            incomplete: in LVIS, classes of which not every object is annotated.
        """
        image = len(self._images) + 1
        height, width = masks.shape[1:]
        self._images.append({"id": image, "height": height, "width": width})
        truth = zip(_packed(masks), labels.tolist(), is_crowd.tolist(), strict=True)
        for rle, label, crowd in truth:
            entry = {"id": len(self._annotations) + 1, "iscrowd": int(crowd)}
            self._annotations.append(entry | _annotation(image, rle, label))
        if absent is not None:
            looked_for = {*labels.tolist(), *absent}
            prediction = _federated(prediction, looked_for)
            self._incomplete[image] = incomplete
            self._most = FEDERATED_DETECTIONS
        found = zip(
            _packed(prediction.masks),
            prediction.labels.tolist(),
            prediction.scores.tolist(),
            strict=True,
        )
        for rle, label, score in found:
            entry = {"id": len(self._detections) + 1, "iscrowd": 0, "score": score}
            self._detections.append(entry | _annotation(image, rle, label))

    def compute(self, groups: Groups) -> AveragePrecisionResult:
        """The result over all images so far.

        Args:
            groups: class indices by name.
        """
        nothing = np.full(self.classes, np.nan)
        if not self._annotations:
            return _result(nothing, nothing.copy(), nothing.copy(), groups)
        evaluation = COCOeval(
            self._coco(self._annotations), self._coco(self._detections), iouType="segm"
        )
        evaluation.params.maxDets = [1, 10, self._most]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        with _quiet():
            evaluation.evaluate()
            self._excuse(evaluation.evalImgs)
            evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, K)
        precision = np.where(precision < 0, np.nan, precision)
        # of a class all are nan or none; pycocotools adds an epsilon, which would leave 1 - 2e-16
        per_iou = precision.mean(1).round(12)
        return _result(per_iou.mean(0).round(12), per_iou[0], per_iou[5], groups)

    def _excuse(self, matchings: list[dict[str, Any] | None]) -> None:
        """Unmatched detections of classes of which an image's annotations are incomplete."""
        for matching in matchings:
            if matching and matching["category_id"] in self._incomplete.get(
                matching["image_id"], ()
            ):
                matching["dtIgnore"] |= matching["dtMatches"] == 0

    def _coco(self, annotations: list[dict[str, Any]]) -> COCO:
        with _quiet():
            coco = COCO()
            coco.dataset = {
                "images": self._images,
                "annotations": annotations,
                "categories": [{"id": label} for label in range(self.classes)],
            }
            coco.createIndex()
        return coco


def _result(
    ap: np.ndarray, ap50: np.ndarray, ap75: np.ndarray, groups: Groups
) -> AveragePrecisionResult:
    means = {"ap": ap, "ap50": ap50, "ap75": ap75}
    by_name = {name: group_means(values, groups) for name, values in means.items()}
    return AveragePrecisionResult(
        ap, ap50, ap75, {g: {name: by_name[name][g] for name in by_name} for g in groups}
    )


def _federated(prediction: Instances, looked_for: Collection[int]) -> Instances:
    """Of the best detections those whose classes were looked for."""
    best = prediction.scores.argsort(descending=True, stable=True)[:FEDERATED_DETECTIONS]
    labels = prediction.labels[best].tolist()
    kept = best[[place for place, label in enumerate(labels) if label in looked_for]]
    return Instances(prediction.masks[kept], prediction.labels[kept], prediction.scores[kept])


def _annotation(image: int, rle: dict[str, Any], label: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": label,
        "segmentation": rle,
        "area": float(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _packed(masks: Tensor) -> list[dict[str, Any]]:
    if not len(masks):
        return []
    planes = masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0)
    packed: list[dict[str, Any]] = coco_mask.encode(np.asfortranarray(planes))
    return packed


@contextlib.contextmanager
def _quiet() -> Any:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
