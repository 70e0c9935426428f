"""FC-CLIP's released layout goes into open_clip's CLIP and into the proposer."""

import re

import pytest
import torch
from tiny_towers import tiny_convnext, tiny_resnet
from torch import Tensor

from ovseg_cli.checkpoints.fcclip import import_fcclip
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers.mask2former.clip_model import ClipMask2Former
from ovseg_cli.structures import Frame, FramedImage

HEAD = "sem_seg_head."
RELEASED = (  # ours, theirs
    ("void_embedding.", "void_embedding."),
    ("pixel_decoder.projections.", f"{HEAD}pixel_decoder.input_proj."),
    ("pixel_decoder.level_embeddings", f"{HEAD}pixel_decoder.transformer.level_embed"),
    ("pixel_decoder.lateral.0.", f"{HEAD}pixel_decoder.adapter_1."),
    ("pixel_decoder.lateral.1.", f"{HEAD}pixel_decoder.adapter_1.norm."),
    ("pixel_decoder.smooth.0.", f"{HEAD}pixel_decoder.layer_1."),
    ("pixel_decoder.smooth.1.", f"{HEAD}pixel_decoder.layer_1.norm."),
    ("pixel_decoder.mask_features.", f"{HEAD}pixel_decoder.mask_features."),
    ("mask_decoder.query_features.", f"{HEAD}predictor.query_feat."),
    ("mask_decoder.query_positions.", f"{HEAD}predictor.query_embed."),
    ("mask_decoder.level_embeddings.", f"{HEAD}predictor.level_embed."),
    ("mask_decoder.norm.", f"{HEAD}predictor.decoder_norm."),
    ("mask_decoder.mask_head.0.", f"{HEAD}predictor.mask_embed.layers.0."),
    ("mask_decoder.mask_head.2.", f"{HEAD}predictor.mask_embed.layers.1."),
    ("mask_decoder.mask_head.4.", f"{HEAD}predictor.mask_embed.layers.2."),
    ("mask_decoder.class_head.pooled.", f"{HEAD}predictor._mask_pooling_proj."),
    ("mask_decoder.class_head.embed.0.", f"{HEAD}predictor.class_embed.layers.0."),
    ("mask_decoder.class_head.embed.2.", f"{HEAD}predictor.class_embed.layers.1."),
    ("mask_decoder.class_head.embed.4.", f"{HEAD}predictor.class_embed.layers.2."),
    ("mask_decoder.class_head.logit_scale", f"{HEAD}predictor.logit_scale"),
)
IN_LAYERS = {  # of the pixel decoder, and of the mask decoder
    "attention.offsets": "self_attn.sampling_offsets",
    "attention.attention": "self_attn.attention_weights",
    "attention.value": "self_attn.value_proj",
    "attention.output": "self_attn.output_proj",
    "attention_norm": "norm1",
    "feedforward_norm": "norm2",
    "feedforward.0": "linear1",
    "feedforward.2": "linear2",
}
IN_MASK_LAYERS = {
    "cross_attention": "transformer_cross_attention_layers.{}.multihead_attn",
    "cross_norm": "transformer_cross_attention_layers.{}.norm",
    "self_attention": "transformer_self_attention_layers.{}.self_attn",
    "self_norm": "transformer_self_attention_layers.{}.norm",
    "feedforward_norm": "transformer_ffn_layers.{}.norm",
    "feedforward.0": "transformer_ffn_layers.{}.linear1",
    "feedforward.2": "transformer_ffn_layers.{}.linear2",
}


def released_state(clip: ClipEncoder, model: ClipMask2Former) -> dict[str, Tensor]:
    """As the released code names it, with what else is in its files."""
    clip_state = clip.model.state_dict().items()
    return {
        **{f"backbone.clip_model.{name}": tensor for name, tensor in clip_state},
        **{released_name(name): tensor for name, tensor in model.state_dict().items()},
        "criterion.empty_weight": torch.ones(3),
    }


def released_name(name: str) -> str:
    layer = re.fullmatch(r"(pixel|mask)_decoder\.layers\.(\d+)\.(.+)", name)
    if layer is None:
        ours, theirs = next(pair for pair in RELEASED if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)
    kind, number, inner = layer.groups()
    table = IN_LAYERS if kind == "pixel" else IN_MASK_LAYERS
    part = next(part for part in table if inner.startswith(f"{part}."))
    if kind == "pixel":
        where = f"{HEAD}pixel_decoder.transformer.encoder.layers.{number}.{table[part]}"
    else:
        where = f"{HEAD}predictor.{table[part].format(number)}"
    return where + inner.removeprefix(part)


def small_model(clip: ClipEncoder, seed: int) -> ClipMask2Former:
    torch.manual_seed(seed)
    model = ClipMask2Former(
        clip=clip,
        hidden_dim=32,
        mask_dim=64,
        queries=6,
        heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=48,
        decoder_layers=3,
        feedforward_dim=40,
    )
    return model.eval()


@pytest.mark.parametrize("tower", [tiny_convnext, tiny_resnet])
def test_everything_is_taken_and_gives_the_same_proposals(tower) -> None:
    clip, other = tower(), tower(seed=7)
    model, fresh = small_model(clip, seed=0), small_model(other, seed=1)
    weights = import_fcclip(released_state(clip, model), source="fcclip_cocopan.pth")
    load_weights(other.model, weights.clip, source="fcclip_cocopan.pth")
    load_weights(fresh, weights.proposer, source="fcclip_cocopan.pth")
    pixels = 255 * torch.rand(3, 64, 96)
    framed = FramedImage(pixels, Frame((64, 96), (60, 90), (60, 90)))
    found, expected = fresh.propose(framed), model.propose(framed)
    assert torch.equal(found.mask_logits, expected.mask_logits)
    assert found.embeddings is not None
    assert expected.embeddings is not None
    assert torch.equal(found.embeddings, expected.embeddings)
    assert found.logit_scale == expected.logit_scale
    assert torch.equal(fresh.void_embedding.weight, model.void_embedding.weight)


def test_a_file_without_the_text_tower_is_taken() -> None:
    clip = tiny_convnext()
    state = released_state(clip, small_model(clip, seed=0))
    kept = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("backbone.clip_model.") or ".visual." in name
    }
    weights = import_fcclip(kept, source="the case")
    assert weights.clip.keys() == {f"visual.{name}" for name in clip.model.visual.state_dict()}


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("backbone.clip_model.", r"backbone\.clip_model\.visual\.\*"),
        ("void_embedding.", r"void_embedding\.weight"),
        ("sem_seg_head.predictor.class_embed.", r"class_embed\.layers\.0"),
    ],
)
def test_a_file_of_something_else_is_refused(without: str, named: str) -> None:
    clip = tiny_convnext()
    state = {
        name: tensor
        for name, tensor in released_state(clip, small_model(clip, seed=0)).items()
        if not name.startswith(without)
    }
    with pytest.raises(CheckpointError, match=rf"model\.pth: no FC-CLIP in it \(.*{named}"):
        import_fcclip(state, source="model.pth")
