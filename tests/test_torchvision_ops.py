"""torchvision's Python part loads whether or not its compiled part fits the installed torch."""

import subprocess
import sys

import torch

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
print(len(ops._libraries), ops.is_declared("qnms"))
"""
    assert run_python(code) == "0 False"


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
