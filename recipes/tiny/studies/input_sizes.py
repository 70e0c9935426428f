"""A ViT CLIP beside a ConvNeXt CLIP as the image that they see grows, three seeds.

    python recipes/tiny/studies/input_sizes.py FOLDER [--seeds 0 1 2] [--jobs 1]

The paper's table 9, on the first 100 images of the test split: CLIP alone names the same masks by
mask pooling; no training is involved. The masks are those of the teacher in FOLDER/vit, which is
a folder as the study masqclip.py makes it; FOLDER itself is that of the study fcclip.py.
"""

from seeds import LIGHT, Results, SeedRun, cell, study

RECIPE = "tiny/fcclip"
VIT = "tiny/masqclip"
SIZES = (96, 128, 192, 256, 320)
SETTINGS = (
    *LIGHT,
    f"evaluate.input_sizes={list(SIZES)}",
    "evaluate.images=100",
    "evaluate.tasks=[panoptic]",
    "mask_encoder={name: mask_pooling}",
    "artifacts.proposals=teacher",
    "classification={scale: clip, background: null, object_score: true}",
    "inference={object_threshold: 0.0, overlap_threshold: 0.8, reject_background: false}",
)
TOWERS = {"vit": "ViT", "convnext": "ConvNeXt"}
FIGURES = {
    "annotated masks named": "mask_accuracy.all",
    "PQ": "panoptic.all.pq",
    "PQ, unseen": "panoptic.novel.pq",
}
PAPER = {  # PQ on COCO and ADE20K, ODISE's masks, five growing sizes of which the first is 224
    "vit": ("19.3 22.5 20.6 18.5 14.9", "11.9 13.7 12.6 11.6 9.1"),
    "convnext": ("17.3 23.5 27.0 28.6 29.3", "9.3 12.8 14.8 16.0 15.9"),
}


def run_seed(seed: SeedRun) -> dict[str, Results]:
    """Both evaluations of a seed; what is there is not made again.

    Args:
        seed: its run directory.
    """
    vit = SeedRun.of(seed.path.parent / "vit", VIT, seed.seed, seed.threads)
    vit.prepare()
    seed.prepare()
    vit.scores("sizes-vit", SETTINGS)
    seed.scores("sizes-convnext", (*SETTINGS, f"evaluate.masks_from={vit.path}"))
    return {
        f"{tower} {row['input_size']}": row["results"]
        for tower, run in (("vit", vit), ("convnext", seed))
        for row in run.rows(f"sizes-{tower}", "input_sizes")
    }


def table(runs: list[dict[str, Results]]) -> str:
    """The Markdown table of the README.

    Args:
        runs: the results of each seed.
    """
    sizes = " | ".join(str(size) for size in SIZES)
    lines = [f"| | image seen at: {sizes} |", f"|---|{'---|' * len(SIZES)}"]
    for title, path in FIGURES.items():
        for tower, name in TOWERS.items():
            cells = [cell(runs, f"{tower} {size}", path) for size in SIZES]
            lines.append(f"| {title}: {name} | {' | '.join(cells)} |")
    for number, dataset in enumerate(("COCO", "ADE20K")):
        for tower, name in TOWERS.items():
            values = PAPER[tower][number].split()
            lines.append(f"| paper, PQ on {dataset}: {name} | {' | '.join(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__.splitlines()[0], RECIPE, run_seed, table)
