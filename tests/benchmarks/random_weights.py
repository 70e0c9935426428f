"""A run directory of published sizes and random weights, for `predict_folder.py --model DIR`.

    python tests/benchmarks/random_weights.py DIR [--set section.option=value]

The recipe is `open_vocabulary`: Mask2Former R50 and CLIP ViT-L/14 at 336, with a word's name alone
in the place of 14 sentences about it, which for 1,203 words are hours of one core.
"""

import argparse
from pathlib import Path

import torch

from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import load_recipe
from ovseg_cli.run import Run

CHANGES = ("clip.pretrained=null", "vocabulary.templates=name_only")


def main() -> None:
    """Writes the recipe and the proposals; CLIP gets its random weights where it is loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args()
    recipe = load_recipe("open_vocabulary", [*CHANGES, *options.changes])
    run = Run(options.folder)
    run.save_recipe(recipe)
    parts = {key: value for key, value in recipe.section("proposer").items() if key != "name"}
    torch.manual_seed(recipe.seed)
    run.save_artifact("proposals", "teacher", Mask2Former(**parts).state_dict(), {"options": parts})


if __name__ == "__main__":
    main()
