"""MaskCLIP's released layout goes into open_clip's tower and into relative mask attention."""

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.checkpoints.maskclip import import_maskclip
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention

LAYERS = (1, 3)


def encoder_of(seed: int = 0) -> RelativeMaskAttention:
    return RelativeMaskAttention(tiny_clip(layers=4), layers=LAYERS, seed=seed)


def released_state(encoder: RelativeMaskAttention) -> dict[str, Tensor]:
    """As the released code names it: convolutions by number, and two more that nothing reads."""
    state = {f"visual.{k}": v for k, v in encoder.clip.model.visual.state_dict().items()}
    tuned = encoder.tuned_tensors()
    side = encoder.clip.visual.patch_size[0]
    for number, layer in enumerate(LAYERS):
        attention = f"visual.transformer.resblocks.{layer}.attn"
        convolution = "visual.transformer.conv{}_added_params." + str(number)
        for part in ("weight", "bias"):
            named = {
                f"{attention}.q_prime_norm_added_params.{part}": f"relations.{layer}.norm.{part}",
                f"{attention}.k_prime_proj_weight_added_params.{part}": (
                    f"relations.{layer}.keys.{part}"
                ),
                f"{convolution.format(1)}.{part}": f"relations.{layer}.patches.{part}",
                f"{convolution.format(3)}.{part}": f"refinements.{layer}.pixels.{part}",
            }
            state |= {theirs: tuned[ours] for theirs, ours in named.items()}
        first, third = (f"{convolution.format(kind)}.weight" for kind in (1, 3))
        state[first] = state[first].unflatten(1, (1, side, side))
        state[third] = state[third][:, :, None, None]
        for kind in (1, 3):
            for part in ("weight", "bias"):
                unread = f"visual.transformer.conv{kind}_added_params.{number + 2}.{part}"
                state[unread] = torch.full_like(
                    state[f"{convolution.format(kind)}.{part}"], torch.nan
                )
    return state


@pytest.mark.parametrize("prefix", ["", "maskclip."])
def test_everything_is_taken_and_nothing_is_left_over(prefix: str) -> None:
    encoder = encoder_of()
    state = {f"{prefix}{name}": value for name, value in released_state(encoder).items()}
    if prefix:
        state |= {
            "backbone.stem.conv1.weight": torch.zeros(1),
            "criterion.empty_weight": torch.ones(2),
        }
    weights = import_maskclip(state, source="released.pth")
    assert weights.layers == LAYERS
    assert weights.visual.keys() == encoder.clip.model.visual.state_dict().keys()
    fresh = encoder_of(seed=5)
    fresh.load_tuned_tensors(weights.relative_mask_attention, source="released.pth")
    for name, value in fresh.tuned_tensors().items():
        assert torch.equal(value, encoder.tuned_tensors()[name]), name


def test_the_first_stages_file_is_refused() -> None:
    state = {"backbone.stem.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"first.pth: no MaskCLIP classifier .*first stage"):
        import_maskclip(state, source="first.pth")


def test_a_tower_without_relative_mask_attention_is_refused() -> None:
    state = {"visual.class_embedding": torch.zeros(32)}
    with pytest.raises(CheckpointError, match="added_params is missing"):
        import_maskclip(state, source="clip.pth")
