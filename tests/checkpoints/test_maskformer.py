"""Made-up weights under the released names, and back: shapes are those of the released file."""

import re

import pytest
import torch
from released_maskformer import QUERIES, released_name
from tiny_towers import tiny_convnext
from torch import Tensor

from ovseg_cli.checkpoints.imagenet import load_backbone
from ovseg_cli.checkpoints.maskformer import import_maskformer
from ovseg_cli.checkpoints.swin import swin_weights
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers import MaskFormer
from ovseg_cli.proposers.swin import Swin, swin
from ovseg_cli.structures import Frame, FramedImage

SMALL = {
    "hidden_dim": 32,
    "mask_dim": 16,
    "embedding_hidden_dim": 24,
    "queries": 5,
    "heads": 4,
    "decoder_layers": 2,
    "feedforward_dim": 16,
}
SWIN = {"backbone": "swin_tiny", "backbone_width": 12}
RESNET = {"backbone": "resnet26c", "backbone_width": 8}


def small(seed: int, **options: object) -> MaskFormer:
    torch.manual_seed(seed)
    model = MaskFormer(clip=tiny_convnext(), **{**SMALL, **options}).eval()
    for tensor in model.state_dict().values():
        torch.nn.init.normal_(tensor, std=0.2)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.abs_()
    return model


def released_state(model: MaskFormer) -> dict[str, Tensor]:
    state = {released_name(name): tensor for name, tensor in model.state_dict().items()}
    extra = {
        "backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49),
        "clip_adapter.clip_model.logit_scale": torch.ones(()),
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
        "criterion.empty_weight": torch.ones(3),
    }
    return {**state, **(extra if isinstance(model.backbone, Swin) else {})}


BACKBONES = pytest.mark.parametrize("backbone", [SWIN, RESNET], ids=["swin", "resnet"])


@BACKBONES
def test_everything_is_taken_and_gives_the_same_proposals(backbone):
    model, fresh = small(0, **backbone), small(1, **backbone)
    weights = import_maskformer(released_state(model), source="ovseg.pth")
    load_weights(fresh, weights, source="ovseg.pth")
    framed = FramedImage(255 * torch.rand(3, 64, 96), Frame((64, 96), (60, 90), (60, 90)))
    found, expected = fresh.propose(framed), model.propose(framed)
    assert torch.equal(found.mask_logits, expected.mask_logits)
    assert torch.equal(found.embeddings, expected.embeddings)
    assert torch.equal(found.no_object, expected.no_object)


def test_names_are_the_published_ones():
    """From the specification's list, with the shapes of the Swin model."""
    model = small(0, **SWIN)
    shapes = {name: tuple(tensor.shape) for name, tensor in released_state(model).items()}
    expected = {
        "backbone.patch_embed.proj.weight": (12, 3, 4, 4),
        "backbone.patch_embed.norm.weight": (12,),
        "backbone.layers.0.blocks.1.attn.qkv.weight": (36, 12),
        "backbone.layers.0.blocks.1.attn.relative_position_bias_table": (169, 3),
        "backbone.layers.0.downsample.reduction.weight": (24, 48),
        "backbone.layers.2.blocks.5.mlp.fc1.weight": (192, 48),
        "backbone.norm3.weight": (96,),
        "sem_seg_head.pixel_decoder.adapter_1.weight": (32, 12, 1, 1),
        "sem_seg_head.pixel_decoder.adapter_3.norm.weight": (32,),
        "sem_seg_head.pixel_decoder.layer_4.weight": (32, 96, 3, 3),
        "sem_seg_head.pixel_decoder.mask_features.weight": (16, 32, 3, 3),
        "sem_seg_head.predictor.query_embed.weight": (5, 32),
        "sem_seg_head.predictor.input_proj.weight": (32, 96, 1, 1),
        "sem_seg_head.predictor.transformer.decoder.layers.1.multihead_attn.in_proj_weight": (
            96,
            32,
        ),
        "sem_seg_head.predictor.transformer.decoder.layers.1.linear2.weight": (32, 16),
        "sem_seg_head.predictor.transformer.decoder.norm.bias": (32,),
        "sem_seg_head.predictor.mask_embed.layers.2.weight": (16, 32),
        "sem_seg_head.predictor.class_embed.layers.1.weight": (16, 24),
        "clip_adapter.non_object_embedding": (1, 16),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    weights = import_maskformer(released_state(model), source="ovseg.pth")
    assert weights.keys() == model.state_dict().keys()


def test_files_from_before_the_pixel_decoders_prefix_are_understood():
    model = small(0, **RESNET)
    old = {n.replace("pixel_decoder.", ""): t for n, t in released_state(model).items()}
    assert old.keys() != released_state(model).keys()
    weights = import_maskformer(old, source="old.pth")
    assert weights.keys() == model.state_dict().keys()


@pytest.mark.parametrize("without", ["clip_adapter.non_object_embedding", f"{QUERIES}class_embed."])
def test_a_file_of_something_else_is_refused(without):
    state = {n: t for n, t in released_state(small(0, **RESNET)).items() if without not in n}
    with pytest.raises(CheckpointError, match=r"model\.pth: no MaskFormer of OVSeg in it \("):
        import_maskformer(state, source="model.pth")


def test_a_swin_begins_with_weights_in_its_own_layout(tmp_path):
    """A classifier's norm and head are left out; the norms on the stages stay as they are."""
    model = small(0, **SWIN)
    prefix = "backbone."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in released_state(model).items()
        if name.startswith(prefix) and not re.match(r"backbone\.norm\d", name)
    }
    state |= {"norm.weight": torch.ones(96), "head.weight": torch.ones(9, 96)}
    state |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    target = swin("swin_tiny", width=12)
    load_backbone(target, str(tmp_path / "swin.pth"), architecture="swin_tiny")
    own = model.backbone.state_dict()
    for name, tensor in target.state_dict().items():
        is_stage_norm = name.split(".")[1] == "norm"
        assert torch.equal(tensor, own[name]) != is_stage_norm, name
    other = swin("swin_tiny", width=24)
    with pytest.raises(CheckpointError, match=r"swin\.pth: weights of another model"):
        load_backbone(other, str(tmp_path / "swin.pth"), architecture="swin_tiny")


def test_timms_order_of_downsampling_is_not_taken_for_the_released_one():
    """timm's `layers.1.downsample` is released as `layers.0.downsample`."""
    named = swin_weights({"layers.0.downsample.norm.weight": torch.ones(48)})
    assert named.keys() == {"layer2.merge.norm.weight"}
