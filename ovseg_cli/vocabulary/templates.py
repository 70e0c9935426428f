"""Prompt templates: sentences with a place, {}, for a name."""

_SIZES = ("small", "medium", "large")

NAME_ONLY = ("{}",)
"""The bare name, as MasQCLIP and MaskCLIP have it."""

VILD = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in _SIZES),
    *(f"This is a photo of a {size} {{}}." for size in _SIZES),
    *(f"There is a {size} {{}} in the scene." for size in _SIZES),
)
"""The 14 sentences of ViLD (Gu et al., ICLR 2022) as FC-CLIP, MAFT and OVSeg use them."""

TEMPLATES = {"name_only": NAME_ONLY, "vild": VILD}
