"""Declare torchvision's compiled operators where the installed build cannot load them.

Import this module before anything that imports torchvision (open_clip and timm do). A torchvision
whose compiled part does not fit the installed torch fails at import with `operator
torchvision::nms does not exist`; with the two schemas declared, its Python part loads.
"""

import importlib.util
import os
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a library that is collected takes its schemas away


def is_declared(name: str) -> bool:
    """Whether the operator `torchvision::<name>` has a schema."""
    return hasattr(torch.ops.torchvision, name)


def load_compiled_operators() -> bool:
    """Load torchvision's compiled operators without importing torchvision.

    Returns whether they are usable: False when torchvision is absent, has no compiled part or was
    compiled for another torch.
    """
    if is_declared("nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = Path(next(iter(spec.submodule_search_locations)))
    for library in sorted(folder.glob("_C*.pyd" if os.name == "nt" else "_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except (OSError, RuntimeError):
            continue
    return is_declared("nms")


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes that non-maximum suppression keeps, best score first.

    A box is dropped when its IoU with a better kept box is above the threshold.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,) a score a box.
        iou_threshold: in 0..1.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        top_left = torch.maximum(boxes[index, :2], boxes[index + 1 :, :2])
        bottom_right = torch.minimum(boxes[index, 2:], boxes[index + 1 :, 2:])
        overlap = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        iou = overlap / (area[index] + area[index + 1 :] - overlap)
        alive[index + 1 :] &= ~(iou > iou_threshold)
    return order[alive]


def declare_missing_operators() -> bool:
    """Declare `nms` and `qnms` and register a plain `nms`, only where the compiled ones are absent.

    Returns whether anything had to be declared.
    """
    if load_compiled_operators():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not is_declared(name):
            library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    _libraries.append(library)
    return True


declare_missing_operators()
