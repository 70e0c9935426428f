"""OVSeg on the synthetic set, three seeds: which pairs, what is tuned, and the ensemble.

    python recipes/tiny/studies/ovseg.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's tables 2 to 6, on the first 200 images of the test split. Every row is tuned by the same
number of pairs, 150 steps of 64, but those that are tuned twice; beside these stands fine-tuning
for 300 steps. All take the MaskFormer's masks, at test time and for the pairs; "masks named" is
what CLIP alone calls the annotated ones. The control has the same pairs, steps and random boxes,
and sees what lies around the masks, too, while it learns.
"""

from collections.abc import Sequence
from statistics import mean

from seeds import LIGHT, Results, SeedRun, cell, difference, figure, spread, study

RECIPE = "tiny/ovseg"
SETTINGS = (*LIGHT, "evaluate.images=200", "evaluate.tasks=[semantic]")
SWEEP = (
    "evaluate.sweep={ensembles: [product], weights: [[0, 0], [0.7, 0.7], [0.9, 0.9], [1, 1]], "
    "tasks: [semantic]}"
)
MASK_ENCODER = (
    "mask_encoder={{name: masked_crops, region: box, fill: mean, side: 40, "
    "tuned: {tuned}, prompts: {prompts}}}"
)
FINETUNE, MPT, JOINT = ("finetune", 0), ("mpt", 3), ("joint", 3)
Variant = tuple[str, tuple[str, int], tuple[str, ...]]
VARIANTS: dict[str, Variant] = {  # title, what is tuned and prompts' depth, other settings
    "ground-truth": (
        "fine-tuned on annotated masks",
        FINETUNE,
        ("pairs=ground_truth",),
    ),
    "caption-1": ("fine-tuned on mined pairs, one caption", FINETUNE, ("captions=1",)),
    "finetune": ("fine-tuned on mined pairs, five captions", FINETUNE, ()),
    "unmasked": ("the same pairs, crops unmasked", FINETUNE, ("masked=false",)),
    "longer": ("the same, 300 steps", FINETUNE, ("steps=300",)),
    "mpt-1": ("mask prompts, depth 1", ("mpt", 1), ()),
    "mpt-3": ("mask prompts, depth 3", MPT, ()),
    "joint": ("both at once", JOINT, ()),
    "finetune-mpt": ("fine-tuned, then mask prompts, depth 3", MPT, ("start=finetune",)),
    "mpt-finetune": ("mask prompts, then fine-tuned", ("finetune", 3), ("start=mpt-3",)),
}
FROZEN = "frozen"
TABLES: tuple[tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]], ...] = (
    (  # table 2, mIoU
        "pairs",
        {
            FROZEN: ("21.8", "51.4"),
            "ground-truth": ("23.0", "57.3"),
            "caption-1": ("28.8", "55.7"),
            "finetune": ("28.6", "55.5"),
        },
        ("paper: A-150", "PC-59"),
    ),
    (  # tables 3, 5 and 6, mIoU
        "what is tuned on them",
        {
            FROZEN: ("21.8",),
            "unmasked": ("-",),
            "finetune": ("28.8",),
            "longer": ("-",),
            "mpt-1": ("25.7",),
            "mpt-3": ("26.5",),
            "joint": ("29.0",),
            "finetune-mpt": ("29.6",),
            "mpt-finetune": ("28.1",),
        },
        ("paper: A-150",),
    ),
)
COLUMNS = {
    "masks named, base": "mask_accuracy.base",
    "masks named, novel": "mask_accuracy.novel",
    "mIoU, base": "semantic.base.miou",
    "mIoU, novel": "semantic.novel.miou",
    "mIoU, all": "semantic.all.miou",
}
WHO = {
    "0 0": "MaskFormer alone",
    "1 1": "CLIP alone",
    "0.7 0.7": "ensemble, weight 0.7",
    "0.9 0.9": "ensemble, weight 0.9",
}
PAPER_WHO = {  # table 4, A-150
    FROZEN: {"0 0": "19.6", "1 1": "14.3", "0.7 0.7": "21.8"},
    "finetune-mpt": {"0 0": "19.6", "1 1": "25.1", "0.7 0.7": "29.6"},
}
MINING = {
    "pairs": "pairs",
    "different nouns": "unique_nouns",
    "pairs of a class that is annotated there": "precision.judged",
    "of these, the mask is right": "precision.precision",
    "the mean of the classes": "precision.class_mean",
}
SHARES = ("precision", "class_mean")


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed by variant, and what mining found."""
    run.prepare()
    mining = ("captions=all", "precision=true")
    run.ovseg("mine-captions", settings=[f"mine_captions.{option}" for option in mining])
    found = {"mining": run.recorded("mine-captions")}
    frozen = MASK_ENCODER.format(tuned="none", prompts=0)
    found[FROZEN] = run.scores("ovseg-frozen", [*SETTINGS, SWEEP, frozen])
    found |= _sweep(run, FROZEN)
    for name, (_, (tuned, prompts), options) in VARIANTS.items():
        settings = [
            f"artifacts.tuned={name}",
            MASK_ENCODER.format(tuned=tuned, prompts=prompts),
            *(f"tune_clip.{option}" for option in ("start=null", *options)),
        ]
        if not run.has_scores(f"ovseg-{name}"):
            run.ovseg("tune-clip", "--mode", tuned, settings=settings)
        found[name] = run.scores(f"ovseg-{name}", [*SETTINGS, SWEEP, *settings])
        found |= _sweep(run, name)
    return found


def _sweep(run: SeedRun, name: str) -> dict[str, Results]:
    rows = run.rows(f"ovseg-{name}", "sweep")
    return {f"{name}:{row['alpha']:g} {row['beta']:g}": row["results"] for row in rows}


def table(runs: Sequence[dict[str, Results]]) -> str:
    """The Markdown tables of the README.

    Args:
        runs: the results of each seed.
    """
    return "\n\n".join([*(_rows(runs, *part) for part in TABLES), _who(runs), _mining(runs)])


def _rows(
    runs: Sequence[dict[str, Results]],
    title: str,
    rows: dict[str, tuple[str, ...]],
    paper: tuple[str, ...],
) -> str:
    head = [*COLUMNS, "CLIP alone: mIoU, novel", "all", *paper]
    lines = [f"| {title} | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name, published in rows.items():
        cells = [cell(runs, name, path) for path in COLUMNS.values()]
        cells += [cell(runs, f"{name}:1 1", f"semantic.{group}.miou") for group in ("novel", "all")]
        shown = "CLIP as it is" if name == FROZEN else VARIANTS[name][0]
        lines.append(f"| {shown} | {' | '.join([*cells, *published])} |")
    return "\n".join(lines)


def _who(runs: Sequence[dict[str, Results]]) -> str:
    groups = ("base", "novel", "all")
    head = [*(f"mIoU, {group}" for group in groups), "paper: A-150"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name, paper in PAPER_WHO.items():
        clip = "CLIP as it is" if name == FROZEN else "CLIP fine-tuned, then prompted"
        for weights, who in WHO.items():
            cells = [cell(runs, f"{name}:{weights}", f"semantic.{group}.miou") for group in groups]
            lines.append(f"| {clip}: {who} | {' | '.join([*cells, paper.get(weights, '-')])} |")
    gains = [
        difference(runs, "finetune-mpt:0.7 0.7", "frozen:0.7 0.7", f"semantic.{group}.miou")
        for group in groups
    ]
    lines.append(f"| the tuned ensemble's gain | {' | '.join([*gains, '+7.8'])} |")
    return "\n".join(lines)


def _mining(runs: Sequence[dict[str, Results]]) -> str:
    lines = ["| mined from five captions an image | |", "|---|---|"]
    for title, path in MINING.items():
        values = [figure(run["mining"], path) for run in runs]
        found = [value for value in values if value is not None]
        share = path.rpartition(".")[2] in SHARES
        shown = f"{spread(found)} %" if share else f"{mean(found) / 100:,.0f}"
        lines.append(f"| {title} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
