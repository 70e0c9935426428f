"""CLIP: the only importer of open_clip."""

from ovseg_cli import torchvision_ops as torchvision_ops  # before anything here imports open_clip
