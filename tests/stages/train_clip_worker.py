"""Trains a small CLIP under torchrun; run by test_train_clip."""

import json
import sys
from pathlib import Path

import torch

from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.train_clip import train_clip

if __name__ == "__main__":
    torch.set_num_threads(1)
    train_clip(Settings(Run(Path(sys.argv[1])), Recipe("test", 0, json.loads(sys.argv[2]))))
