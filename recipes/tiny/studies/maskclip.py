"""MaskCLIP on the synthetic set, three seeds: masked crops, mask class tokens, RMA, refinement.

    python recipes/tiny/studies/maskclip.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's tables 2, 3 and 8, on the first 200 images of the test split. All rows take the
teacher's proposals; RMA with and without mask refinement is tuned by the same steps and batches.
"""

from collections.abc import Sequence

from seeds import LIGHT, Results, SeedRun, cell, difference, study

RECIPE = "tiny/maskclip"
SETTINGS = (*LIGHT, "artifacts.proposals=teacher", "evaluate.images=200")
CROPS = ("mask_encoder={name: masked_crops}",)
TOKENS = ("mask_encoder={name: mask_class_tokens}",)
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "masked-images": ("masked images, no training", CROPS),
    "tokens": ("mask class tokens, no training", TOKENS),
    "rma-unrefined": ("RMA without refinement", ("mask_encoder.refine=false",)),
    "rma": ("RMA", ()),
}
PAPER = {  # ADE20K-150: PQ, SQ, RQ, mIoU
    "masked-images": ("8.2", "53.1", "10.5", "13.8"),
    "tokens": ("9.6", "62.5", "12.6", "14.9"),
    "rma-unrefined": ("13.6", "66.4", "-", "-"),
    "rma": ("15.1", "70.5", "19.2", "23.7"),
}
TUNED = ("rma-unrefined", "rma")
COLUMNS = {
    "masks named, base": "mask_accuracy.base",
    "masks named, novel": "mask_accuracy.novel",
    "PQ, all": "panoptic.all.pq",
    "SQ, all": "panoptic.all.sq",
    "RQ, all": "panoptic.all.rq",
    "PQ, novel": "panoptic.novel.pq",
    "mIoU, all": "semantic.all.miou",
    "AP50, all": "instance.all.ap50",
}


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed by encoder."""
    run.prepare()
    for name in TUNED:
        if not run.has_scores(f"maskclip-{name}"):
            run.ovseg("tune-clip", "--mode", "rma", settings=[*SETTINGS, *ROWS[name][1]])
    return {
        name: run.scores(f"maskclip-{name}", [*SETTINGS, *settings])
        for name, (_, settings) in ROWS.items()
    }


def table(runs: Sequence[dict[str, Results]]) -> str:
    """A row an encoder, the paper's beside, percent."""
    head = [*COLUMNS, "paper: PQ", "SQ", "RQ", "mIoU"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name, (title, _) in ROWS.items():
        cells = [cell(runs, name, path) for path in COLUMNS.values()]
        lines.append(f"| {title} | {' | '.join([*cells, *PAPER[name]])} |")
    gains = [difference(runs, "rma", "rma-unrefined", path) for path in COLUMNS.values()]
    lines.append(f"| refinement's gain | {' | '.join(gains)} | +1.5 | +4.1 | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
