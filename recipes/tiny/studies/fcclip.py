"""FC-CLIP on the synthetic set, three seeds: frozen or trainable CLIP, and the ensemble's weights.

    python recipes/tiny/studies/fcclip.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's tables 6 and 8, on the test split. The proposer with a trainable CLIP is trained by the
same steps, batches and options as the one on frozen features. FOLDER is not one of the other
studies': a run directory has one CLIP, and here it is a ConvNeXt.
"""

from collections.abc import Sequence

from seeds import LIGHT, Results, SeedRun, cell, difference, study

RECIPE = "tiny/fcclip"
TRAINABLE = ("proposer.trainable_clip=true",)
OF_TRAINABLE = (*TRAINABLE, "artifacts.proposals=trainable")
WEIGHTS = "evaluate.sweep={ensembles: [geometric], weights: [[0, 0], [1, 1], [0.4, 0.8]]}"
SWEEP = "evaluate.sweep={}"
GROUNDING = "evaluate.grounding=true"

ROWS = {  # mask generator / in- / out-of-vocabulary classifier; the paper's PQ, seen, unseen
    "trainable:geometric 0 0": ("T / T / -", ("17.7", "37.9", "2.6")),
    "trainable:geometric 1 1": ("T / - / F", ("21.1", "32.4", "12.6")),
    "trainable, own tower": ("T / T / T", ("24.1", "38.9", "13.1")),
    "trainable:geometric 0.4 0.8": ("T / T / F", ("25.4", "40.0", "14.6")),
    "frozen": ("F / F / F", ("26.8", "39.5", "17.3")),
}
COLUMNS = {
    "PQ": "panoptic.all.pq",
    "PQ, seen": "panoptic.base.pq",
    "PQ, unseen": "panoptic.novel.pq",
}
PAPER_ENSEMBLE = {  # ADE20K's PQ, arithmetic and geometric, by alpha and beta
    (0.0, 0.0): ("17.8", "17.8"),
    (1.0, 1.0): ("21.9", "21.9"),
    (0.0, 1.0): ("25.3", "25.3"),
    (1.0, 0.0): ("17.5", "17.5"),
    (0.5, 0.5): ("25.0", "25.3"),
    (0.5, 0.6): ("25.6", "26.4"),
    (0.5, 0.7): ("25.5", "26.7"),
    (0.5, 0.8): ("25.4", "26.6"),
    (0.4, 0.6): ("25.1", "25.6"),
    (0.4, 0.7): ("25.6", "26.4"),
    (0.4, 0.8): ("25.6", "26.8"),
    (0.4, 0.9): ("25.4", "25.8"),
}
QUALITY = {
    "PQ": "panoptic.{}.pq",
    "mIoU": "semantic.{}.miou",
    "mask AP": "instance.{}.ap",
    "mask AP50": "instance.{}.ap50",
    "proposal recall at IoU 0.5": "proposal_recall.{}.recall50",
    "annotated masks named": "mask_accuracy.{}",
    "grounding PQ": "grounding.panoptic.{}.pq",
    "grounding mIoU": "grounding.semantic.{}.miou",
}
COST = "cpu_seconds"


def run_seed(seed: SeedRun) -> dict[str, Results]:
    """All evaluations of a seed; what is there is not made again.

    Args:
        seed: its run directory.
    """
    seed.prepare()
    seed.ovseg("train-proposals", settings=(*TRAINABLE, "train_proposals.name=trainable"))
    teacher = "artifacts.proposals=teacher"
    found = {"frozen": seed.scores("frozen", (*LIGHT, SWEEP, GROUNDING, teacher))}
    found |= _sweep(seed, "frozen")
    found["trainable"] = seed.scores("trainable", (*LIGHT, WEIGHTS, *OF_TRAINABLE))
    found |= _sweep(seed, "trainable")
    own = ("mask_encoder.tower=proposals", "evaluate.mask_accuracy=false")
    found["trainable, own tower"] = seed.scores("trainable-own", (*LIGHT, *OF_TRAINABLE, *own))
    return {**found, COST: seed.cpu_seconds()}


def _sweep(seed: SeedRun, name: str) -> dict[str, Results]:
    return {
        f"{name}:{row['ensemble']} {row['alpha']:g} {row['beta']:g}": row["results"]
        for row in seed.rows(name, "sweep")
    }


def table(runs: list[dict[str, Results]]) -> str:
    """The three Markdown tables of the README.

    Args:
        runs: the results of each seed.
    """
    return "\n\n".join([_quality(runs), _towers(runs), _ensembles(runs)])


def _quality(runs: Sequence[dict[str, Results]]) -> str:
    lines = ["| | seen | unseen | harmonic | all |", "|---|---|---|---|---|"]
    for title, path in QUALITY.items():
        groups = ("base", "novel", "harmonic", "all")
        cells = [cell(runs, "frozen", path.format(group)) for group in groups]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _towers(runs: Sequence[dict[str, Results]]) -> str:
    names = " | ".join(COLUMNS)
    lines = [
        f"| mask generator / in- / out-of-vocabulary | {names} | paper: PQ | seen | unseen |",
        f"|---|{'---|' * (len(COLUMNS) + 3)}",
    ]
    for name, (title, paper) in ROWS.items():
        cells = [cell(runs, name, path) for path in COLUMNS.values()]
        lines.append(f"| {title} | {' | '.join([*cells, *paper])} |")
    other = "trainable:geometric 0.4 0.8"
    gains = [difference(runs, "frozen", other, path) for path in COLUMNS.values()]
    lines.append(f"| F / F / F less T / T / F | {' | '.join([*gains, '+1.4', '-0.5', '+2.7'])} |")
    return "\n".join(lines)


def _ensembles(runs: Sequence[dict[str, Results]]) -> str:
    lines = [
        "| alpha, beta | arithmetic: PQ | seen | unseen | geometric: PQ | seen | unseen "
        "| paper: PQ, arithmetic | geometric |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (alpha, beta), paper in PAPER_ENSEMBLE.items():
        cells = [
            cell(runs, f"frozen:{ensemble} {alpha:g} {beta:g}", path)
            for ensemble in ("arithmetic", "geometric")
            for path in COLUMNS.values()
        ]
        lines.append(f"| {alpha:g}, {beta:g} | {' | '.join([*cells, *paper])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
