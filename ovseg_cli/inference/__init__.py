"""From classified masks to a semantic map, a panoptic map and instances.

Mask2Former (Cheng et al., CVPR 2022), section 4, and MaskFormer (NeurIPS 2021), section 3.4, with
MasQCLIP's scores and thresholds. All results are gathered tile by tile, so that memory grows with
the maps and the instances' masks: not with proposals times pixels, nor with classes times pixels.
"""

from ovseg_cli.inference.instance_scores import instances
from ovseg_cli.inference.options import TASKS, InferenceOptions, SemanticAt, Task, checked_tasks
from ovseg_cli.inference.panoptic import panoptic_map
from ovseg_cli.inference.results import segment
from ovseg_cli.inference.semantic import semantic_map, semantic_scores

__all__ = [
    "TASKS",
    "InferenceOptions",
    "SemanticAt",
    "Task",
    "checked_tasks",
    "instances",
    "panoptic_map",
    "segment",
    "semantic_map",
    "semantic_scores",
]
