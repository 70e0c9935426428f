"""A run directory with a whole segmenter of random weights, small enough for tests."""

from pathlib import Path

import torch

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.recipe import parse_recipe
from ovseg_cli.run import Run

CLIP = {
    "embed_dim": 16, "image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "heads": 2,
    "text_width": 16, "text_heads": 2, "token_width": 8,
}  # fmt: skip
RECIPE = """
seed: 0
framing: {short_side: null, max_side: null}
inference: {object_threshold: 0.0, overlap_threshold: 0.0}
mask_encoder: {name: mask_class_tokens}
proposer:
  name: mask2former
  backbone: resnet10
  backbone_width: 8
  hidden_dim: 64
  mask_dim: 32
  queries: 5
  heads: 2
  encoder_layers: 1
  encoder_feedforward_dim: 32
  decoder_layers: 2
  feedforward_dim: 32
"""


def untrained_run(folder: Path) -> Path:
    """Writes the run directory and returns its path; the same weights every time."""
    run = Run(folder)
    recipe = parse_recipe(RECIPE, name="untrained")
    run.save_recipe(recipe)
    proposer = {key: value for key, value in recipe.section("proposer").items() if key != "name"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = ClipEncoder(build_small_clip(**CLIP)).model
        mask2former = Mask2Former(**proposer)
    run.save_artifact("clip", "base", clip.state_dict(), {"architecture": "small", "options": CLIP})
    run.save_artifact("proposals", "teacher", mask2former.state_dict(), {"options": proposer})
    return folder
