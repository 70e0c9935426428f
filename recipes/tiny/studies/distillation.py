"""MasQCLIP's object score and progressive distillation on the synthetic set, three seeds.

    python recipes/tiny/studies/distillation.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's tables 3 and 4. The classifier is the same in every row: MasQ, tuned with the teacher's
proposals. The control of round r is the teacher trained on for as many rounds of the same steps,
batches and learning rates without pseudo masks.
"""

from collections.abc import Sequence

from seeds import LIGHT, Results, SeedRun, cell, difference, study

RECIPE = "tiny/masqclip"
ROUNDS = (1, 2, 3)
CONTROL = "control: as many steps without pseudo masks"
SETTINGS = (*LIGHT, "evaluate.mask_accuracy=false", "evaluate.tasks=[instance]")
COLUMNS = {
    "recall, base": "proposal_recall.base.recall50",
    "recall, novel": "proposal_recall.novel.recall50",
    "AP50, base": "instance.base.ap50",
    "AP50, novel": "instance.novel.ap50",
    "AP50, all": "instance.all.ap50",
}
OBJECT_SCORE_COLUMNS = {name: path for name, path in COLUMNS.items() if "AP50" in name}
PAPER = {  # AP50 on COCO: base, novel, all
    "no object score": (16.9, 11.3, 15.4),
    "teacher": (53.8, 22.6, 45.6),
    "student-1": (50.6, 26.1, 44.2),
    "student-2": (51.0, 31.9, 46.0),
    "student-3": (51.2, 31.2, 46.0),
}


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed: the teacher with and without object score, students, controls."""
    run.prepare()
    rounds = f"distill.rounds={max(ROUNDS)}"
    run.ovseg("distill", settings=[rounds])
    run.ovseg("distill", settings=[rounds, "distill.name=control", "distill.score_threshold=1"])
    names = ["teacher", *(f"{kind}-{r}" for kind in ("student", "control") for r in ROUNDS)]
    wanted = [f"proposals-{name}" for name in names] + ["no-object-score"]
    if not all(run.has_scores(name) for name in wanted):
        run.ovseg("tune-clip", "--mode", "masq", settings=["artifacts.proposals=teacher"])
    results = {
        name: run.scores(f"proposals-{name}", [*SETTINGS, f"artifacts.proposals={name}"])
        for name in names
    }
    without = ["artifacts.proposals=teacher", "classification.object_score=false"]
    results["no object score"] = run.scores("no-object-score", [*SETTINGS, *without])
    return results


def table(runs: Sequence[dict[str, Results]]) -> str:
    """Both tables, percent."""
    return object_score_table(runs) + "\n\n" + rounds_table(runs)


def object_score_table(runs: Sequence[dict[str, Results]]) -> str:
    """With and without object score."""
    lines = [_head(OBJECT_SCORE_COLUMNS)]
    for title, name in (("without object score", "no object score"), ("with", "teacher")):
        lines.append(_row(runs, title, name, OBJECT_SCORE_COLUMNS))
    return "\n".join(lines)


def rounds_table(runs: Sequence[dict[str, Results]]) -> str:
    """Rounds of distillation, each beside its control."""
    lines = [_head(COLUMNS), _row(runs, "teacher, no round", "teacher", COLUMNS)]
    for r in ROUNDS:
        lines.append(_row(runs, f"after round {r}", f"student-{r}", COLUMNS))
        lines.append(_row(runs, f"- {CONTROL}", f"control-{r}", COLUMNS))
    for r in ROUNDS:
        gains = [difference(runs, f"student-{r}", f"control-{r}", p) for p in COLUMNS.values()]
        lines.append(f"| round {r} less its control | {' | '.join(gains)} | | | |")
    return "\n".join(lines)


def _head(columns: dict[str, str]) -> str:
    titles = [*columns, "paper: AP50, base", "novel", "all"]
    return f"| | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}"


def _row(runs: Sequence[dict[str, Results]], title: str, name: str, columns: dict[str, str]) -> str:
    cells = [cell(runs, name, path) for path in columns.values()]
    paper = [str(value) for value in PAPER.get(name, ("-", "-", "-"))]
    return f"| {title} | {' | '.join(cells + paper)} |"


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
