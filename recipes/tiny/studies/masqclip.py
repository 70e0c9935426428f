"""MasQCLIP on the synthetic set, three seeds: MasQ-Tuning against frozen mask class tokens.

    python recipes/tiny/studies/masqclip.py FOLDER [--seeds 0 1 2] [--jobs 1]

Each seed is trained from nothing in FOLDER/seed-N, with the teacher's proposals, and evaluated once
more with frozen mask class tokens.
"""

from collections.abc import Sequence

from seeds import Results, SeedRun, cell, difference, study

RECIPE = "tiny/masqclip"
TEACHER = "artifacts.proposals=teacher"
FROZEN = "mask_encoder.variant=freeze"
BOTH = {"frozen": "frozen tokens", "tuned": "MasQ"}
EITHER = {"tuned": "-"}  # the same with and without tuning
ROWS = (
    ("zero-shot accuracy, crops", "crop_accuracy.{}", EITHER),
    ("proposal recall at IoU 0.5", "proposal_recall.{}.recall50", EITHER),
    ("accuracy, annotated masks", "mask_accuracy.{}", BOTH),
    ("- of things", "mask_accuracy.{}things", BOTH),
    ("- of stuff", "mask_accuracy.{}stuff", BOTH),
    ("mIoU (classes in the ground truth)", "semantic.{}.miou", BOTH),
    ("mIoU (or in the prediction)", "semantic.{}.miou_union", BOTH),
    ("PQ", "panoptic.{}.pq", BOTH),
    ("mask AP", "instance.{}.ap", BOTH),
    ("mask AP50", "instance.{}.ap50", BOTH),
)
GROUPS = ("base", "novel", "harmonic", "all")
PART_GROUPS = ("base_", "novel_", "harmonic_", "")
GAIN = "mask_accuracy.harmonic"


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed's tuned and frozen segmenters."""
    run.prepare()
    if not run.has_scores("tuned"):
        run.ovseg("tune-clip", "--mode", "masq", settings=[TEACHER])
    return {
        "tuned": run.scores("tuned", [TEACHER]),
        "frozen": run.scores("frozen", [TEACHER, FROZEN]),
    }


def table(runs: Sequence[dict[str, Results]]) -> str:
    """Frozen beside tuned, percent."""
    lines = [
        "| | masks named by | base | novel | harmonic | all |",
        "|---|---|---|---|---|---|",
    ]
    for title, path, kinds in ROWS:
        groups = PART_GROUPS if path.endswith(("things", "stuff")) else GROUPS
        for name, named in kinds.items():
            cells = [cell(runs, name, path.format(group)) for group in groups]
            lines.append(f"| {title} | {named} | {' | '.join(cells)} |")
    gain = difference(runs, "tuned", "frozen", GAIN)
    lines.append(f"\nMasQ's gain in harmonic mean, annotated masks: {gain} points.")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
