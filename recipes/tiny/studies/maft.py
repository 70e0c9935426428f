"""MAFT on the synthetic set, three seeds: its two losses, how they are taken, how long, from where.

    python recipes/tiny/studies/maft.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's tables 4, 7 and 8, on the first 200 images of the test split, and figure 3 as a number.
All rows take the teacher's proposals, and all that is tuned the same batches, 100 steps of 8 where
nothing else is said. The control tunes the same groups of parameters with cross-entropy on the
annotated masks.
"""

from collections.abc import Sequence

from seeds import LIGHT, Results, SeedRun, cell, difference, study

RECIPE = "tiny/maft"
PLUGGED_RECIPE = "tiny/maft_in_masqclip"
SETTINGS = (
    *LIGHT,
    "artifacts.proposals=teacher",
    "evaluate.images=200",
    "evaluate.tasks=[semantic]",
    "evaluate.sensitivity=true",
)
CROPS = "mask_encoder={name: masked_crops, region: box, fill: mean, side: 40}"
ALONE = ("distillation_weight=0",)
LAYERS = (0, 1, 2)
STEPS = (25, 50, 200)
UNTUNED = {  # title, settings
    "crops": ("frozen CLIP on crops", (CROPS,)),
    "frozen": ("image proposals, not tuned", ("mask_encoder.tuned=none",)),
}
TUNED = {  # title, options of tune_clip
    "mask-aware": ("+ mask-aware loss", ALONE),
    "maft": ("+ self-distillation: MAFT", ()),
    "control": (
        "control: cross-entropy on annotated masks",
        (*ALONE, "objective=cross_entropy", "masks=ground_truth"),
    ),
    "l1": ("L1", (*ALONE, "distance=l1")),
    "l2": ("L2", (*ALONE, "distance=l2")),
    "kl": ("KL", (*ALONE, "distance=kl")),
    **{f"steps-{steps}": (f"{steps} steps", (f"steps={steps}",)) for steps in STEPS},
    "self-training": (
        "+ 100 steps of self-training",
        ("start=maft", "pseudo_labels=true"),
    ),
    "again": ("+ 100 steps without it", ("start=maft",)),
}
TOKENS = "mask_encoder={name: mask_class_tokens}"
PLUGGED = {  # title, settings of the mask encoder, whether it is tuned
    "tokens": ("mask class tokens, frozen", (TOKENS,), False),
    "masq": ("mask class tokens, MasQ-tuned", ("tune_clip.steps=100",), True),
    "crops": ("masked crops, frozen", (CROPS,), False),
}
TOWERS = {"clip": ("clip.tower=null",), "maft": ("clip.tower=maft",)}
PAPER = {  # COCO-Stuff 156 / 15: seen, unseen, harmonic
    "crops": ("22.3", "29.3", "25.3"),
    "frozen": ("29.4", "36.2", "32.4"),
    "mask-aware": ("39.9", "47.1", "43.1"),
    "maft": ("40.1", "49.7", "44.4"),
    "l1": ("38.6", "45.8", "41.8"),
    "l2": ("40.0", "45.8", "42.7"),
    "kl": ("40.9", "41.8", "41.3"),
    "oracle": ("77.2", "82.1", "79.6"),
}
PARTS = ("crops", "frozen", "mask-aware", "maft", "control")
LOSSES = ("mask-aware", "l1", "l2", "kl")
COLUMNS = {
    "mIoU, seen": "semantic.base.miou",
    "unseen": "semantic.novel.miou",
    "harmonic": "semantic.harmonic.miou",
}
NAMED = {"masks named, seen": "mask_accuracy.base", "unseen": "mask_accuracy.novel"}
SENSITIVITY = {
    "half-covered above": "sensitivity.all.half",
    "background-heavy above": "sensitivity.all.background",
    "either": "sensitivity.all.either",
}


def run_seed(run: SeedRun) -> dict[str, Results]:
    """The results of a seed by variant."""
    run.prepare()
    found = {
        name: run.scores(f"maft-{name}", [*SETTINGS, *settings])
        for name, (_, settings) in UNTUNED.items()
    }
    for name, (_, options) in TUNED.items():
        found[name] = _tuned(run, name, options)
    for layer in LAYERS:
        found[f"layer-{layer}"] = _tuned(run, f"layer-{layer}", (), layer)
    oracle = ("evaluate.oracle_classes=iou", "mask_encoder.tuned=none")
    plain = (*SETTINGS[:-1], "evaluate.mask_accuracy=false")
    found["oracle"] = run.scores("maft-oracle", [*plain, *oracle])
    return {**found, **_plugged(run)}


def _plugged(run: SeedRun) -> dict[str, Results]:
    """Other systems on CLIP's own tower and on the tuned one."""
    other = SeedRun.of(run.path.parent, PLUGGED_RECIPE, run.seed, run.threads)
    found = {}
    for tower, chosen in TOWERS.items():
        for name, (_, options, tuned) in PLUGGED.items():
            title = f"{name}-on-{tower}"
            settings = [*SETTINGS, *chosen, *options, f"artifacts.tuned={title}"]
            if tuned and not other.has_scores(f"maft-{title}"):
                other.ovseg("tune-clip", "--mode", "masq", settings=settings)
            found[title] = other.scores(f"maft-{title}", settings)
    return found


def _tuned(run: SeedRun, name: str, options: Sequence[str], layer: int | None = None) -> Results:
    settings = [*SETTINGS, f"artifacts.tuned={name}", *(f"tune_clip.{o}" for o in options)]
    if layer is not None:
        settings.append(f"mask_encoder.start_layer={layer}")
    if not run.has_scores(f"maft-{name}"):
        run.ovseg("tune-clip", "--mode", "maft", settings=settings)
    return run.scores(f"maft-{name}", settings)


def table(runs: Sequence[dict[str, Results]]) -> str:
    """The Markdown tables of the README.

    Args:
        runs: the results of each seed.
    """
    return "\n\n".join([_parts(runs), _sensitivity(runs), _variants(runs), _plugged_table(runs)])


def _parts(runs: Sequence[dict[str, Results]]) -> str:
    head = [*COLUMNS, *NAMED, "paper: seen", "unseen", "harmonic"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name in PARTS:
        title = (UNTUNED.get(name) or TUNED[name])[0]
        lines.append(f"| {title} | {' | '.join([*_figures(runs, name), *_paper(name)])} |")
    for other, title in (("frozen", "image proposals, not tuned"), ("control", "the control")):
        paths = [*COLUMNS.values(), *NAMED.values()]
        gains = [difference(runs, "maft", other, path) for path in paths]
        lines.append(f"| MAFT less {title} | {' | '.join([*gains, '', '', ''])} |")
    return "\n".join(lines)


def _sensitivity(runs: Sequence[dict[str, Results]]) -> str:
    lines = [f"| | {' | '.join(SENSITIVITY)} |", "|" + "---|" * (len(SENSITIVITY) + 1)]
    for name in PARTS:
        cells = [cell(runs, name, path) for path in SENSITIVITY.values()]
        lines.append(f"| {(UNTUNED.get(name) or TUNED[name])[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _variants(runs: Sequence[dict[str, Results]]) -> str:
    head = [*COLUMNS, *NAMED, "paper: seen", "unseen", "harmonic"]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    rows = {name: f"loss: {TUNED[name][0]}" for name in LOSSES}
    rows["mask-aware"] = "loss: smooth L1"
    rows |= {f"steps-{steps}": f"{steps} steps" for steps in STEPS if steps < 100}
    rows |= {"maft": "100 steps", "steps-200": "200 steps"}
    rows |= {f"layer-{layer}": f"masks from layer {layer} of 3" for layer in LAYERS}
    rows |= {name: f"MAFT {TUNED[name][0]}" for name in ("self-training", "again")}
    rows["oracle"] = "upper bound: classes by IoU"
    for name, title in rows.items():
        lines.append(f"| {title} | {' | '.join([*_figures(runs, name), *_paper(name)])} |")
    return "\n".join(lines)


def _plugged_table(runs: Sequence[dict[str, Results]]) -> str:
    head = [*COLUMNS, *NAMED]
    lines = [f"| | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    for name, (title, _, _) in PLUGGED.items():
        lines.append(
            f"| {title}, on CLIP's tower | {' | '.join(_figures(runs, f'{name}-on-clip'))} |"
        )
        gains = [
            difference(runs, f"{name}-on-maft", f"{name}-on-clip", path)
            for path in (*COLUMNS.values(), *NAMED.values())
        ]
        lines.append(f"| MAFT's tower less CLIP's | {' | '.join(gains)} |")
    return "\n".join(lines)


def _figures(runs: Sequence[dict[str, Results]], name: str) -> list[str]:
    return [cell(runs, name, path) for path in (*COLUMNS.values(), *NAMED.values())]


def _paper(name: str) -> tuple[str, ...]:
    return PAPER.get(name, ("-", "-", "-"))


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
