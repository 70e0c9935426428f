"""What MasQ-Tuning may tune, on the synthetic set, three seeds: nothing, Q, K, V, or a whole tower.

    python recipes/tiny/studies/tuning_variants.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's table 5. Every variant begins with CLIP's weights, takes the same proposals, batches,
steps and learning rate, and the same share of the tuning is kept.
"""

from collections.abc import Sequence

from seeds import LIGHT, Results, SeedRun, cell, study

RECIPE = "tiny/masqclip"
TEACHER = "artifacts.proposals=teacher"
VARIANTS = {
    "freeze": "Freeze",
    "v": "Tune-V",
    "qkv": "Tune-QKV",
    "clip": "Tune-CLIP",
    "k": "Tune-K",
    "qk": "Tune-QK",
    "q": "Tune-Q",
}
PAPER = {  # PQ on COCO, whose classes were seen, and on ADE20K-150
    "freeze": (19.4, 10.7),
    "v": (50.0, 14.4),
    "qkv": (50.5, 14.9),
    "clip": (49.0, 14.7),
    "k": (48.3, 22.5),
    "qk": (49.0, 22.9),
    "q": (48.5, 23.3),
}
COLUMNS = {
    "masks named, base": "mask_accuracy.base",
    "masks named, novel": "mask_accuracy.novel",
    "PQ, base": "panoptic.base.pq",
    "PQ, novel": "panoptic.novel.pq",
    "mIoU, base": "semantic.base.miou",
    "mIoU, novel": "semantic.novel.miou",
}


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed by variant."""
    run.prepare()
    settings = {name: (f"mask_encoder.variant={name}",) for name in VARIANTS}
    results = {}
    for name, chosen in settings.items():
        if name != "freeze" and not run.has_scores(f"variant-{name}"):
            run.ovseg("tune-clip", "--mode", "masq", settings=[TEACHER, *chosen])
        results[name] = run.scores(f"variant-{name}", [*LIGHT, TEACHER, *chosen])
    return results


def table(runs: Sequence[dict[str, Results]]) -> str:
    """A row a variant, the paper's PQ beside, percent."""
    head = [*COLUMNS, "paper: PQ, COCO", "PQ, ADE20K"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name, title in VARIANTS.items():
        cells = [cell(runs, name, path) for path in COLUMNS.values()]
        seen, unseen = PAPER[name]
        lines.append(f"| {title} | {' | '.join(cells)} | {seen} | {unseen} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
