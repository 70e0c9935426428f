"""Mask AP the obvious way (COCO's rules): greedy matching in a loop, 101 points of recall."""

from typing import NamedTuple

import numpy as np

THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]


class Scene(NamedTuple):
    """One class in one image: annotated masks, which are crowds, and found masks with scores."""

    masks: list[np.ndarray]
    crowd: list[bool]
    found: list[np.ndarray]
    scores: list[float]


def overlap(found: np.ndarray, mask: np.ndarray, *, crowd: bool) -> float:
    """IoU; of a crowd the share of the detection that lies in it."""
    shared = (found & mask).sum()
    whole = found.sum() if crowd else (found | mask).sum()
    return float(shared / whole) if whole else 0.0


def verdicts(scene: Scene, threshold: float) -> list[tuple[float, bool | None]]:
    """For each detection its score, and whether it is right; None where it does not count."""
    taken: set[int] = set()
    result: list[tuple[float, bool | None]] = []
    for place in sorted(range(len(scene.scores)), key=lambda i: -scene.scores[i]):
        best, match = min(threshold, 1 - 1e-10), None
        for crowds in (False, True):
            for number, mask in enumerate(scene.masks):
                if scene.crowd[number] != crowds or (number in taken and not crowds):
                    continue
                iou = overlap(scene.found[place], mask, crowd=crowds)
                if iou >= best:
                    best, match = iou, number
            if match is not None:
                break
        if match is not None:
            taken.add(match)
        right = match is not None
        excused = right and scene.crowd[match or 0]
        result.append((scene.scores[place], None if excused else right))
    return result


def precision_at(scenes: list[Scene], threshold: float) -> float:
    """AP of a class at one IoU; nan where nothing of it is annotated."""
    annotated = sum(not crowd for scene in scenes for crowd in scene.crowd)
    if not annotated:
        return float("nan")
    all_found = [found for scene in scenes for found in verdicts(scene, threshold)]
    counted = sorted((f for f in all_found if f[1] is not None), key=lambda f: -f[0])
    points = []
    right = 0
    for rank, (_, is_right) in enumerate(counted, start=1):
        right += bool(is_right)
        points.append((right / annotated, right / rank))
    recalls = np.linspace(0, 1, 101)
    best = [max((p for r, p in points if r >= recall), default=0.0) for recall in recalls]
    return float(np.mean(best))


def average_precision(scenes: list[Scene]) -> float:
    """Mean over IoU 0.5 to 0.95."""
    return float(np.mean([precision_at(scenes, threshold) for threshold in THRESHOLDS]))
