"""Made-up weights under Mask2Former's released names, in the kinds of file that are released."""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

SIZES = {
    "hidden_dim": 32,
    "mask_dim": 64,
    "queries": 6,
    "heads": 4,
    "encoder_layers": 2,
    "encoder_feedforward_dim": 48,
    "decoder_layers": 3,
    "feedforward_dim": 40,
}
HEAD = "sem_seg_head."
PIXELS, QUERIES = f"{HEAD}pixel_decoder.", f"{HEAD}predictor."
RULES = (  # ours, theirs: the first that fits
    (r"backbone\.embed\.(.*)", r"backbone.patch_embed.proj.\1"),
    (r"backbone\.embed_norm\.(.*)", r"backbone.patch_embed.norm.\1"),
    (r"backbone\.layer(\d)\.merge\.(.*)", r"backbone.layers.(\1-2).downsample.\2"),
    (r"backbone\.layer(\d)\.norm\.(.*)", r"backbone.norm(\1-1).\2"),
    (r"backbone\.layer(\d)\.blocks\.(.*)", r"backbone.layers.(\1-1).blocks.\2"),
    (r"backbone\.(conv|bn)(\d)\.(.*)", r"backbone.stem.\1\2.\3"),
    (r"backbone\.layer(\d)\.(.*)", r"backbone.res(\1+1).\2"),
    (r"pixel_decoder\.projections\.(.*)", PIXELS + r"input_proj.\1"),
    (r"pixel_decoder\.level_embeddings", PIXELS + "transformer.level_embed"),
    (r"pixel_decoder\.lateral\.0\.(.*)", PIXELS + r"adapter_1.\1"),
    (r"pixel_decoder\.lateral\.1\.(.*)", PIXELS + r"adapter_1.norm.\1"),
    (r"pixel_decoder\.smooth\.0\.(.*)", PIXELS + r"layer_1.\1"),
    (r"pixel_decoder\.smooth\.1\.(.*)", PIXELS + r"layer_1.norm.\1"),
    (r"pixel_decoder\.layers\.(.*)", PIXELS + r"transformer.encoder.layers.\1"),
    (r"pixel_decoder\.(mask_features\..*)", PIXELS + r"\1"),
    (r"mask_decoder\.query_features\.(.*)", QUERIES + r"query_feat.\1"),
    (r"mask_decoder\.query_positions\.(.*)", QUERIES + r"query_embed.\1"),
    (r"mask_decoder\.level_embeddings\.(.*)", QUERIES + r"level_embed.\1"),
    (r"mask_decoder\.norm\.(.*)", QUERIES + r"decoder_norm.\1"),
    (r"mask_decoder\.mask_head\.(\d)\.(.*)", QUERIES + r"mask_embed.layers.(\1//2).\2"),
    (r"mask_decoder\.class_head\.pooled\.(.*)", QUERIES + r"_mask_pooling_proj.\1"),
    (r"mask_decoder\.class_head\.logit_scale", QUERIES + "logit_scale"),
    (r"mask_decoder\.class_head\.embed\.(\d)\.(.*)", QUERIES + r"class_embed.layers.(\1//2).\2"),
    (r"mask_decoder\.class_head\.(\d)\.(.*)", QUERIES + r"class_embed.layers.(\1//2).\2"),
    (r"mask_decoder\.class_head\.(.*)", QUERIES + r"class_embed.\1"),
    (
        r"mask_decoder\.layers\.(\d+)\.cross_attention\.(.*)",
        QUERIES + r"transformer_cross_attention_layers.\1.multihead_attn.\2",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.cross_norm\.(.*)",
        QUERIES + r"transformer_cross_attention_layers.\1.norm.\2",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.self_attention\.(.*)",
        QUERIES + r"transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.self_norm\.(.*)",
        QUERIES + r"transformer_self_attention_layers.\1.norm.\2",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.feedforward\.(\d)\.(.*)",
        QUERIES + r"transformer_ffn_layers.\1.linear(\2//2+1).\3",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.feedforward_norm\.(.*)",
        QUERIES + r"transformer_ffn_layers.\1.norm.\2",
    ),
)
SWIN = {
    ".attention_norm.": ".norm1.",
    ".feedforward_norm.": ".norm2.",
    ".attention.position_biases": ".attn.relative_position_bias_table",
    ".attention.qkv.": ".attn.qkv.",
    ".attention.output.": ".attn.proj.",
    ".feedforward.0.": ".mlp.fc1.",
    ".feedforward.2.": ".mlp.fc2.",
}
RESNET = {
    ".downsample.0.": ".shortcut.",
    ".downsample.1.": ".shortcut.norm.",
    ".bn1.": ".conv1.norm.",
    ".bn2.": ".conv2.norm.",
    ".bn3.": ".conv3.norm.",
}
DEFORMABLE = {
    ".attention.offsets.": ".self_attn.sampling_offsets.",
    ".attention.attention.": ".self_attn.attention_weights.",
    ".attention.value.": ".self_attn.value_proj.",
    ".attention.output.": ".self_attn.output_proj.",
    ".attention_norm.": ".norm1.",
    ".feedforward_norm.": ".norm2.",
    ".feedforward.0.": ".linear1.",
    ".feedforward.2.": ".linear2.",
}


def released_name(name: str) -> str:
    """A name of ours as Mask2Former's released code has it."""
    pattern, theirs = next(rule for rule in RULES if re.fullmatch(rule[0], name))
    found = re.fullmatch(pattern, name).expand(theirs)
    found = re.sub(r"\((\d)([-+/\d]+)\)", lambda n: str(eval(n[1] + n[2])), found)
    inside = DEFORMABLE if "pixel_decoder" in name else SWIN if ".blocks." in name else RESNET
    if name.startswith(("backbone", "pixel_decoder.layers")):
        for ours, part in inside.items():
            found = found.replace(ours, part)
    return found


def released_mask2former(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as the released code names them, with what else is in its files."""
    state = {released_name(name): tensor for name, tensor in model.state_dict().items()}
    return {**state, "criterion.empty_weight": torch.ones(8)}


def zoo_pickle(path: Path, state: dict[str, Tensor]) -> Path:
    """A raw pickle of NumPy arrays, as Mask2Former's zoo has them."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    content = {"model": arrays, "__author__": "Mask2Former", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    return path
