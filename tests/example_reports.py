"""Reports with every part that a page can have."""

from functools import cache

import numpy as np
from PIL import Image

from ovseg_cli.report.confusions import Confusion
from ovseg_cli.report.evaluation import EvaluationReport, ScoredPicture
from ovseg_cli.report.pictures import Picture, picture_of
from ovseg_cli.report.prediction import Drawing, PredictionReport


def noise(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@cache
def small_picture() -> Picture:
    return picture_of(noise(), longest_side=32, most_bytes=20_000)


def row(name: str, pq: float | None, *, seen: bool | None = None, annotated: float = 3.0) -> dict:
    return {
        "class": name,
        "thing": True,
        "seen": seen,
        "pq": pq,
        "iou": 0.5,
        "annotated": annotated,
    }


def evaluation_report(names: list[str]) -> EvaluationReport:
    picture = small_picture()
    scored = ScoredPicture(names[0], 0.25, picture, picture, [(names[0], names[-1])])
    return EvaluationReport(
        dataset=names[0],
        name=names[-1],
        results={"panoptic": {"all": {"pq": 0.5}, "base": {"pq": 0.75}, "novel": {"pq": 0.25}}},
        scores=[("%", "all", "base (seen)"), ("PQ", "50.0", "75.0")],
        per_class=[row(name, index / 20, seen=False) for index, name in enumerate(names)],
        pixels=[Confusion(names[0], None, 1234567, 0.5)],
        segments=[Confusion(names[0], name, 3, 0.1) for name in names],
        best=[scored],
        worst=[scored, scored],
        tables={"Ensembles": [("ensemble", "PQ"), (names[0], "12.0")]},
        circumstances={"command": f"ovseg evaluate --name {names[0]}"},
    )


def prediction_report(names: list[str]) -> PredictionReport:
    drawings = [Drawing(name, {name: 2}, small_picture(), f"overlays/{name}.png") for name in names]
    return PredictionReport(
        images=len(names),
        words=[*names, "unicorn"],
        found={name: 2 for name in names},
        drawings=drawings,
        failures=[(name, f"{name}: not an image") for name in names],
        failed=len(names),
        circumstances={"command": f"ovseg predict --labels {names[0]}"},
    )
