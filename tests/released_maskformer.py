"""Names of our MaskFormer as OVSeg's released code has them."""

import re

HEAD = "sem_seg_head."
PIXELS, QUERIES = f"{HEAD}pixel_decoder.", f"{HEAD}predictor."
RELEASED = (  # ours, theirs: the first that fits
    (r"pixel_decoder\.coarsest\.0\.(.*)", PIXELS + r"layer_4.\1"),
    (r"pixel_decoder\.coarsest\.1\.(.*)", PIXELS + r"layer_4.norm.\1"),
    (r"pixel_decoder\.laterals\.(\d)\.0\.(.*)", PIXELS + r"adapter_(\1+1).\2"),
    (r"pixel_decoder\.laterals\.(\d)\.1\.(.*)", PIXELS + r"adapter_(\1+1).norm.\2"),
    (r"pixel_decoder\.smooths\.(\d)\.0\.(.*)", PIXELS + r"layer_(\1+1).\2"),
    (r"pixel_decoder\.smooths\.(\d)\.1\.(.*)", PIXELS + r"layer_(\1+1).norm.\2"),
    (r"pixel_decoder\.mask_features\.(.*)", PIXELS + r"mask_features.\1"),
    (r"query_decoder\.query_positions\.(.*)", QUERIES + r"query_embed.\1"),
    (r"query_decoder\.projection\.(.*)", QUERIES + r"input_proj.\1"),
    (r"query_decoder\.norm\.(.*)", QUERIES + r"transformer.decoder.norm.\1"),
    (r"query_decoder\.mask_head\.(\d)\.(.*)", QUERIES + r"mask_embed.layers.(\1//2).\2"),
    (r"query_decoder\.embedding_head\.(\d)\.(.*)", QUERIES + r"class_embed.layers.(\1//2).\2"),
    (r"query_decoder\.(layers\..*)", QUERIES + r"transformer.decoder.\1"),
    (r"no_object\.weight", "clip_adapter.non_object_embedding"),
    (r"backbone\.embed\.(.*)", r"backbone.patch_embed.proj.\1"),
    (r"backbone\.embed_norm\.(.*)", r"backbone.patch_embed.norm.\1"),
    (r"backbone\.layer(\d)\.merge\.(.*)", r"backbone.layers.(\1-2).downsample.\2"),
    (r"backbone\.layer(\d)\.norm\.(.*)", r"backbone.norm(\1-1).\2"),
    (r"backbone\.layer(\d)\.blocks\.(.*)", r"backbone.layers.(\1-1).blocks.\2"),
    (r"backbone\.(conv|bn)(\d)\.(.*)", r"backbone.stem.\1\2.\3"),
    (r"backbone\.layer(\d)\.(.*)", r"backbone.res(\1+1).\2"),
)
INSIDE = {
    ".self_attention.": ".self_attn.",
    ".cross_attention.": ".multihead_attn.",
    ".self_norm.": ".norm1.",
    ".cross_norm.": ".norm2.",
    ".feedforward.0.": ".linear1.",
    ".feedforward.3.": ".linear2.",
}
INSIDE_SWIN = {
    ".attention_norm.": ".norm1.",
    ".feedforward_norm.": ".norm2.",
    ".attention.position_biases": ".attn.relative_position_bias_table",
    ".attention.qkv.": ".attn.qkv.",
    ".attention.output.": ".attn.proj.",
    ".feedforward.0.": ".mlp.fc1.",
    ".feedforward.2.": ".mlp.fc2.",
}


def released_name(name: str) -> str:
    """A name of ours as the released code has it."""
    inside = {**INSIDE, ".feedforward_norm.": ".norm3."}
    if name.startswith("backbone."):
        inside = INSIDE_SWIN if ".blocks." in name else {}
        name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
        name = name.replace(".downsample.0.", ".shortcut.")
        name = name.replace(".downsample.1.", ".shortcut.norm.")
    for ours, theirs in inside.items():
        name = name.replace(ours, theirs)
    pattern, theirs = next(pair for pair in RELEASED if re.fullmatch(pair[0], name))
    found = re.sub(f"^{pattern}$", theirs, name)
    return re.sub(r"\((\d)(//|\+|-)(\d)\)", _computed, found)


def _computed(found: re.Match[str]) -> str:
    first, second = int(found[1]), int(found[3])
    return str({"//": first // second, "+": first + second, "-": first - second}[found[2]])
