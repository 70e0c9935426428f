"""torchvision's Python part loads whether or not its compiled part fits the installed torch."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.roi_align import roi_align as plain_roi_align

from ovseg_cli import torchvision_ops


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_torchvision_and_open_clip_import_after_the_declaration():
    code = (
        "import ovseg_cli.torchvision_ops, torchvision, open_clip; print(torchvision.__version__)"
    )
    assert run_python(code)


def test_nothing_is_declared_where_the_operators_are_already_there():
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import ovseg_cli.torchvision_ops as ops
print(ops.are_declared_here(), ops.is_declared("qnms"))
"""
    assert run_python(code) == "False False"


def test_declaring_twice_changes_nothing():
    libraries = len(torchvision_ops._libraries)
    assert torchvision_ops.declare_missing_operators() is False
    assert len(torchvision_ops._libraries) == libraries


def test_nms_keeps_the_better_of_two_overlapping_boxes_and_every_distant_one():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert torchvision_ops.nms(boxes, scores, 0.8).tolist() == [1, 2]
    assert torchvision_ops.nms(boxes, scores, 0.95).tolist() == [1, 2, 0]
    assert torch.ops.torchvision.nms(boxes, scores, 0.8).tolist() == [1, 2]


def test_nms_does_not_drop_a_box_for_one_that_was_dropped():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert torchvision_ops.nms(boxes, scores, 0.4).tolist() == [0, 2]


def test_nms_of_no_boxes_is_empty():
    assert torchvision_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


@given(seed=st.integers(0, 2**31), count=st.integers(0, 60), threshold=st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_nms_is_the_greedy_loop(seed, count, threshold):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=generator) * 10
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    scores = torch.rand(count, generator=generator)
    assert torchvision_ops.nms(boxes, scores, threshold).tolist() == greedy(
        boxes, scores, threshold
    )


def test_nms_in_several_blocks_is_nms_in_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 4, generator=generator) * 10
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    scores = torch.rand(50, generator=generator)
    whole = torchvision_ops.nms(boxes, scores, 0.3)
    monkeypatch.setattr(torchvision_ops, "_BLOCK", 7)
    assert torch.equal(torchvision_ops.nms(boxes, scores, 0.3), whole)


def greedy(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(iou(boxes[index].tolist(), boxes[other].tolist()) <= threshold for other in kept):
            kept.append(index)
    return kept


def iou(first: list[float], second: list[float]) -> float:
    sides = [max(0.0, min(first[k + 2], second[k + 2]) - max(first[k], second[k])) for k in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    shared = sides[0] * sides[1]
    return shared / (areas[0] + areas[1] - shared)


def test_a_bin_of_a_ramp_has_the_ramps_value_at_its_centre():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    found = torch.ops.torchvision.roi_align(
        ramp, torch.tensor([[0.0, 2, 2, 6, 6]]), 1.0, 2, 2, 2, True
    )
    assert found[0, 0].tolist() == [[2.5, 4.5], [2.5, 4.5]]  # pixel i has its centre at i + 0.5
    shifted = torch.ops.torchvision.roi_align(
        ramp, torch.tensor([[0.0, 2, 2, 6, 6]]), 1.0, 2, 2, 2, False
    )
    assert shifted[0, 0].tolist() == [[3, 5], [3, 5]]


def test_a_region_far_outside_pools_to_zero_and_one_at_the_border_repeats_it():
    ones = torch.ones(1, 1, 4, 4)
    rois = torch.tensor([[0.0, 10, 10, 12, 12], [0, -0.5, -0.5, 0.5, 0.5], [0, -3, 0, 3, 4]])
    found = torch.ops.torchvision.roi_align(ones, rois, 1.0, 1, 1, 2, True)[:, 0, 0, 0]
    assert found[:2].tolist() == [0, 1]
    assert found[2] == pytest.approx(0.5)


ROIS = torch.tensor(
    [
        [0.0, 1.3, 2.1, 9.7, 11.9],
        [1, 0, 0, 24, 20],
        [0, -4, -3, 5, 6],
        [1, 18, 14, 40, 33],
        [1, 7, 7, 7, 7],
        [0, 9, 9, 5, 4],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2])
@pytest.mark.parametrize(("scale", "bins"), [(0.5, (2, 3)), (1.0, (1, 2))])
def test_roi_align_agrees_with_the_plain_version(aligned, ratio, scale, bins):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 10, 12, generator=generator, dtype=torch.float64)
    found = torchvision_ops.roi_align(features, ROIS, scale, *bins, ratio, aligned)
    torch.testing.assert_close(found, plain_roi_align(features, ROIS, scale, *bins, ratio, aligned))


def test_chunks_change_nothing(monkeypatch):
    features = torch.rand(2, 3, 10, 12, dtype=torch.float64)
    whole = torchvision_ops.roi_align(features, ROIS, 0.5, 2, 2, 2, True)
    monkeypatch.setattr(torchvision_ops, "_CHUNK", 1)
    assert torch.equal(torchvision_ops.roi_align(features, ROIS, 0.5, 2, 2, 2, True), whole)


@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_aligns_gradient_is_right(ratio):
    features = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.3, 2.1, 9.7, 8.9], [1, 0, 0, 12, 10]], dtype=torch.float64)

    def pooled(values: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchvision.roi_align(values, rois, 0.5, 2, 2, ratio, True)

    assert torch.autograd.gradcheck(pooled, (features,))


def test_no_regions_pool_to_nothing():
    pooled = torch.ops.torchvision.roi_align(
        torch.rand(1, 3, 4, 4), torch.zeros(0, 5), 1.0, 7, 7, 2, True
    )
    assert pooled.shape == (0, 3, 7, 7)


def test_low_precision_features_are_pooled_in_float32():
    features = torch.rand(1, 2, 8, 8).bfloat16()
    rois = torch.tensor([[0.0, 1, 1, 7, 6]])
    pooled = torchvision_ops.roi_align(features, rois, 1.0, 2, 2, 2, True)
    expected = torchvision_ops.roi_align(features.float(), rois, 1.0, 2, 2, 2, True)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, expected.bfloat16())
