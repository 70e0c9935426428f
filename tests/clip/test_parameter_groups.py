import pytest
import torch
from torch import nn

from ovseg_cli.clip.parameter_groups import NAMES, freeze, group_of
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.errors import CheckpointError

import open_clip  # isort: skip
from open_clip.transformer import VisionTransformer  # isort: skip

RELEASED = ("conv", "cls", "pos", "pre", "mlp", "proj")
PAPERS = ("conv", "cls", "pos", "mlp")


def tower(*, patch: int, width: int, layers: int, heads: int, dim: int) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(224, patch, width, layers, heads, 4.0, output_dim=dim)


def trained(visual: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in visual.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({"patch": 16, "width": 768, "layers": 12, "heads": 12, "dim": 512}, 28_386_816),
        ({"patch": 14, "width": 1024, "layers": 24, "heads": 16, "dim": 768}, 100_861_952),
    ],
    ids=["ViT-B/16", "ViT-L/14"],
)
def test_the_released_groups_leave_as_many_parameters_as_released(sizes, count):
    visual = tower(**sizes)
    freeze(visual, RELEASED)
    assert sum(trained(visual).values()) == count
    freeze(visual, PAPERS)
    beside = {*trained(visual)} - {n for n in trained(visual) if "resblocks" in n}
    assert beside == {"ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias", "proj"}


def test_every_parameter_of_every_tower_is_in_one_group():
    with torch.device("meta"):
        resnet = open_clip.create_model("RN50-quickgelu", pretrained=None, device="meta").visual
        small = build_small_clip().visual
    found = {group_of(name) for name, _ in small.named_parameters()}
    assert found == set(NAMES)
    found = {group_of(name) for name, _ in resnet.named_parameters()}
    assert found == {"conv", "pos", "attention", "proj"}
    freeze(resnet, RELEASED)
    assert all(name.split(".")[1] in ("q_proj", "k_proj", "v_proj") for name in trained(resnet))


def test_freezing_nothing_gives_gradients_back():
    visual = build_small_clip(layers=1, width=8, heads=1).visual.requires_grad_(False)
    freeze(visual, ())
    assert all(p.requires_grad for p in visual.parameters())


def test_a_tower_of_another_kind_is_refused():
    with pytest.raises(CheckpointError, match=r"weight is in no group of a vision transformer"):
        freeze(nn.Linear(2, 2), RELEASED)
