"""MAFT's released layout goes into the proposer, the frozen CLIP and the tuned tower."""

import pytest
import torch
from torch import Tensor

from ovseg_cli.checkpoints.freeseg import import_freeseg
from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip

from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers.freeseg import FreeSeg

HEAD = "sem_seg_head."
D = 512
DEPTHS = (3, 4, 23, 3)


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def normed_convolution(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{name}.weight": shape,
        **{f"{name}.norm.{part}": shape[:1] for part in statistics},
    }


def backbone() -> dict[str, tuple[int, ...]]:
    shapes = normed_convolution("backbone.stem.conv1", 64, 3, 3, 3)
    shapes |= normed_convolution("backbone.stem.conv2", 64, 64, 3, 3)
    shapes |= normed_convolution("backbone.stem.conv3", 128, 64, 3, 3)
    inputs = 128
    for stage, depth in enumerate(DEPTHS):
        inner, outputs = 64 * 2**stage, 256 * 2**stage
        for block in range(depth):
            name = f"backbone.res{stage + 2}.{block}"
            if not block:
                shapes |= normed_convolution(f"{name}.shortcut", outputs, inputs, 1, 1)
            shapes |= normed_convolution(f"{name}.conv1", inner, inputs, 1, 1)
            shapes |= normed_convolution(f"{name}.conv2", inner, inner, 3, 3)
            shapes |= normed_convolution(f"{name}.conv3", outputs, inner, 1, 1)
            inputs = outputs
    return shapes


def pixel_decoder() -> dict[str, tuple[int, ...]]:
    name = f"{HEAD}pixel_decoder."
    shapes = {f"{name}transformer.level_embed": (3, 256)}
    for level, channels in enumerate((2048, 1024, 512)):
        shapes |= affine(f"{name}input_proj.{level}.0", 256, channels, 1, 1)
        shapes |= affine(f"{name}input_proj.{level}.1", 256)
    for index in range(6):
        layer = f"{name}transformer.encoder.layers.{index}."
        shapes |= affine(f"{layer}self_attn.sampling_offsets", 192, 256)
        shapes |= affine(f"{layer}self_attn.attention_weights", 96, 256)
        shapes |= affine(f"{layer}self_attn.value_proj", 256, 256)
        shapes |= affine(f"{layer}self_attn.output_proj", 256, 256)
        shapes |= affine(f"{layer}norm1", 256) | affine(f"{layer}norm2", 256)
        shapes |= affine(f"{layer}linear1", 1024, 256) | affine(f"{layer}linear2", 256, 1024)
    shapes[f"{name}adapter_1.weight"] = (256, 256, 1, 1)
    shapes[f"{name}layer_1.weight"] = (256, 256, 3, 3)
    shapes |= affine(f"{name}adapter_1.norm", 256) | affine(f"{name}layer_1.norm", 256)
    return shapes | affine(f"{name}mask_features", 256, 256, 1, 1)


def interaction() -> dict[str, tuple[int, ...]]:
    name = f"{HEAD}interaction."
    shapes = {f"{name}gamma": (256,)}
    shapes |= affine(f"{name}layer_norm_q_1", 256) | affine(f"{name}layer_norm_k_1", D)
    shapes |= affine(f"{name}attn.q_proj", 2048, 256) | affine(f"{name}attn.k_proj", 2048, D)
    return (
        shapes | affine(f"{name}attn.v_proj", 2048, D) | affine(f"{name}attn.out_proj", 256, 2048)
    )


def predictor() -> dict[str, tuple[int, ...]]:
    name = f"{HEAD}predictor."
    shapes = {f"{name}query_feat.weight": (100, 256), f"{name}query_embed.weight": (100, 256)}
    shapes |= {f"{name}level_embed.weight": (3, 256)} | affine(f"{name}decoder_norm", 256)
    for index in range(9):
        for attention in ("cross_attention", "self_attention"):
            layer = f"{name}transformer_{attention}_layers.{index}."
            inner = f"{layer}{'multihead_attn' if attention == 'cross_attention' else 'self_attn'}"
            shapes |= {f"{inner}.in_proj_weight": (768, 256), f"{inner}.in_proj_bias": (768,)}
            shapes |= affine(f"{inner}.out_proj", 256, 256) | affine(f"{layer}norm", 256)
        layer = f"{name}transformer_ffn_layers.{index}."
        shapes |= affine(f"{layer}linear1", 2048, 256) | affine(f"{layer}linear2", 256, 2048)
        shapes |= affine(f"{layer}norm", 256)
    for index in range(3):
        shapes |= affine(f"{name}mask_embed.layers.{index}", 256, 256)
    shapes |= affine(f"{name}class_embed.layers.0", 1024, 256)
    return shapes | affine(f"{name}class_embed.layers.1", D, 1024)


def released() -> dict[str, Tensor]:
    """Of the released names and shapes, without values."""
    shapes = backbone() | pixel_decoder() | interaction() | predictor()
    shapes |= {
        "clip_adapter.clip_model.visual.proj": (768, D),
        "clip_adapter.clip_model.text_projection": (D, D),
        "clip_adapter.non_object_embedding": (1, D),
        "clip_adapter.pixel_mean": (1, 3, 1, 1),
        "criterion.empty_weight": (172,),
        "IPCLIP.proj": (768, D),
        "IPCLIP.transformer.resblocks.0.attn.in_proj_weight": (2304, 768),
        "T.proj": (768, D),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_released_tensors_are_the_models_own() -> None:
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    config["text_cfg"].update(layers=1)
    config["vision_cfg"].update(layers=1)
    with torch.device("meta"):
        model = FreeSeg(clip=ClipEncoder(open_clip.CLIP(**config)))
    weights = import_freeseg(released(), source="MAFT_Vitb.pt")
    found = {name: tuple(tensor.shape) for name, tensor in weights.proposer.items()}
    assert found == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert set(weights.clip) == {"visual.proj", "text_projection"}
    assert set(weights.tuned) == {
        "visual.proj",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [  # those whose shapes do not tell them apart
        (f"{HEAD}interaction.attn.k_proj.weight", "interaction.key.weight"),
        (f"{HEAD}interaction.attn.v_proj.weight", "interaction.value.weight"),
        (f"{HEAD}interaction.layer_norm_q_1.bias", "interaction.pixel_norm.bias"),
        (f"{HEAD}interaction.gamma", "interaction.scale"),
        (f"{HEAD}predictor.query_feat.weight", "mask_decoder.query_features.weight"),
        (f"{HEAD}predictor.query_embed.weight", "mask_decoder.query_positions.weight"),
        (
            f"{HEAD}pixel_decoder.transformer.encoder.layers.5.norm1.weight",
            "pixel_decoder.layers.5.attention_norm.weight",
        ),
        (f"{HEAD}pixel_decoder.adapter_1.norm.weight", "pixel_decoder.lateral.1.weight"),
        ("backbone.res5.2.conv1.norm.running_var", "backbone.layer4.2.bn1.running_var"),
        ("clip_adapter.non_object_embedding", "no_object.weight"),
    ],
)
def test_each_tensor_has_its_place(theirs: str, ours: str) -> None:
    state = released()
    assert import_freeseg(state, source="f.pt").proposer[ours] is state[theirs]


def test_a_file_of_freeseg_alone_has_no_tuned_tower() -> None:
    state = {n: t for n, t in released().items() if not n.startswith(("IPCLIP.", "T."))}
    assert import_freeseg(state, source="freeseg_model.pt").tuned == {}


def test_another_file_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"other.pt: no FreeSeg in it .*interaction.gamma"):
        import_freeseg({"clip_adapter.non_object_embedding": torch.ones(1, 4)}, source="other.pt")
