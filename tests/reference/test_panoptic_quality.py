"""Agreement of PQ and mIoU with COCO's panoptic evaluator and with both published rules."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_cases import cases
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import read_panoptic_ids
from ovseg_cli.metrics.panoptic_quality import PanopticQuality
from ovseg_cli.metrics.semantic_iou import SemanticIou

TOLERANCE = 1e-9


@pytest.mark.parametrize("path", cases("panoptic_quality_"))
def test_panoptic_quality_and_both_ious_agree(path: Path) -> None:
    truth, predicted, expected = (
        json.loads((path / f"{name}.json").read_text()) for name in ("gt", "pred", "expected")
    )
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    index = {category["id"]: place for place, category in enumerate(categories)}
    things = [bool(category["isthing"]) for category in categories]
    quality, iou = PanopticQuality(len(index)), SemanticIou(len(index))
    by_image = {entry["image_id"]: entry for entry in predicted["annotations"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for entry in truth["annotations"]:
        size = sizes[entry["image_id"]]
        target, labels = segments(path / "gt", entry, size, index)
        found, found_labels = segments(path / "pred", by_image[entry["image_id"]], size, index)
        crowd = torch.tensor([bool(s.get("iscrowd", 0)) for s in entry["segments_info"]])
        quality.update(found, found_labels, target, labels, crowd.bool())
        iou.update(class_map(found, found_labels), class_map(target, labels))
    groups = {
        "All": tuple(range(len(index))),
        "Things": tuple(i for i, thing in enumerate(things) if thing),
        "Stuff": tuple(i for i, thing in enumerate(things) if not thing),
    }
    check_quality(quality, groups, expected, index)
    check_iou(iou, groups, expected["mIoU"], index)


def segments(
    folder: Path, entry: dict[str, Any], size: tuple[int, int], index: dict[int, int]
) -> tuple[Tensor, Tensor]:
    """Segment numbers from 1, and the class of each."""
    ids = read_panoptic_ids(folder / entry["file_name"], size)
    numbers = np.zeros(size, dtype=np.int64)
    for place, segment in enumerate(entry["segments_info"]):
        numbers[ids == segment["id"]] = place + 1
    labels = [index[segment["category_id"]] for segment in entry["segments_info"]]
    return torch.from_numpy(numbers), torch.tensor(labels, dtype=torch.int64)


def class_map(numbers: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([torch.tensor([-1]), labels])[numbers]


def check_quality(
    quality: PanopticQuality,
    groups: dict[str, tuple[int, ...]],
    expected: dict[str, Any],
    index: dict[int, int],
) -> None:
    found = quality.compute(groups)
    for name in groups:
        mine, theirs = found.groups[name], expected[name]
        assert mine.classes == theirs["n"]
        if theirs["n"]:
            assert mine.pq == pytest.approx(theirs["pq"], abs=TOLERANCE)
            assert mine.sq == pytest.approx(theirs["sq"], abs=TOLERANCE)
            assert mine.rq == pytest.approx(theirs["rq"], abs=TOLERANCE)
    for category, theirs in expected["per_class"].items():
        place = index[int(category)]
        for name in ("pq", "sq", "rq"):
            mine = np.nan_to_num(getattr(found, name)[place])
            assert mine == pytest.approx(theirs[name], abs=TOLERANCE)


def check_iou(
    iou: SemanticIou,
    groups: dict[str, tuple[int, ...]],
    expected: dict[str, Any],
    index: dict[int, int],
) -> None:
    found = iou.compute(groups)
    assert found.miou["All"] == pytest.approx(expected["gt_present"], abs=TOLERANCE)
    assert found.miou_union["All"] == pytest.approx(expected["gt_or_predicted"], abs=TOLERANCE)
    for category, theirs in expected["per_class"].items():
        mine = np.nan_to_num(found.iou[index[int(category)]])
        assert mine == pytest.approx(theirs, abs=TOLERANCE)
