"""MasQCLIP's released layout goes into open_clip's tower and into mask class tokens."""

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.checkpoints.masqclip import import_masqclip
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens


def released_state(encoder: MaskClassTokens) -> dict[str, Tensor]:
    state = {f"visual.{k}": v for k, v in encoder.clip.model.visual.state_dict().items()}
    assert encoder.query_projections is not None
    for index, projection in enumerate(encoder.query_projections):
        prefix = f"visual.transformer.resblocks.{index}.attn.new_q_proj"
        state |= {f"{prefix}.{k}": v for k, v in projection.state_dict().items()}
    return state | {"mask_embeddings": encoder.mask_position}


@pytest.mark.parametrize("prefix", ["", "masqclip."])
def test_everything_is_taken_and_nothing_is_left_over(prefix: str) -> None:
    encoder = MaskClassTokens(tiny_clip(), variant="q")
    state = {f"{prefix}{name}": value for name, value in released_state(encoder).items()}
    if prefix:
        state |= {
            "backbone.stem.conv1.weight": torch.zeros(1),
            "criterion.empty_weight": torch.ones(2),
        }
    weights = import_masqclip(state, source="released.pth")
    assert weights.visual.keys() == encoder.clip.model.visual.state_dict().keys()
    assert weights.mask_class_tokens.keys() == encoder.tuned_tensors().keys()
    fresh = MaskClassTokens(tiny_clip(), variant="q", seed=5)
    fresh.load_tuned_tensors(weights.mask_class_tokens, source="released.pth")
    assert all(
        torch.equal(value, encoder.tuned_tensors()[name])
        for name, value in fresh.tuned_tensors().items()
    )


def test_open_clips_own_tower_lacks_only_the_tuned_parts() -> None:
    encoder = MaskClassTokens(tiny_clip(layers=3), variant="q")
    tuned = encoder.tuned_tensors()
    assert len(tuned) == 2 * 3 + 1
    assert sorted(tuned)[0] == "mask_position"


def test_the_first_stages_file_is_refused() -> None:
    state = {"backbone.stem.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"teacher.pth: no MasQCLIP classifier"):
        import_masqclip(state, source="teacher.pth")
