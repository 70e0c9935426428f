"""MAFT's released layout, the part that is CLIP's."""

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.checkpoints.maft_tower import import_maft_tower
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.image_proposals import ImageProposals


def released(*, tuned: bool) -> dict[str, Tensor]:
    """As saved: three image towers, or the frozen one alone, and a proposer."""
    clip = tiny_clip().model.state_dict()
    state = {f"clip_adapter.clip_model.{name}": value for name, value in clip.items()}
    state["clip_adapter.non_object_embedding"] = torch.rand(1, 16)
    state["sem_seg_head.predictor.query_feat.weight"] = torch.rand(4, 8)
    if tuned:
        for prefix, seed in (("IPCLIP.", 1), ("T.", 2)):
            visual = tiny_clip(seed=seed).visual.state_dict()
            state |= {f"{prefix}{name}": value for name, value in visual.items()}
    return state


@pytest.mark.parametrize("tuned", [True, False])
def test_the_tuned_tower_is_taken_or_the_one_that_it_would_begin_as(tuned: bool) -> None:
    weights = import_maft_tower(released(tuned=tuned), source="a file")
    assert weights.tuned == tuned
    expected = tiny_clip(seed=int(tuned)).visual.state_dict()
    assert weights.visual.keys() == expected.keys()
    assert all(torch.equal(weights.visual[name], expected[name]) for name in expected)
    clip = tiny_clip(seed=3)
    load_weights(clip.model, weights.clip, source="clip")
    encoder = ImageProposals(clip, start_layer=1, input_size=None, tuned="maft")
    encoder.load_tower(weights.visual, source="tower")
    whole = torch.rand(1, 3, 32, 32) * 255
    _, found = encoder(whole, torch.ones(1, 1, 4, 4))
    assert torch.allclose(found, encoder.teacher(whole)) != tuned


def test_a_file_without_a_tower_says_so() -> None:
    state = {"sem_seg_head.predictor.query_feat.weight": torch.rand(4, 8)}
    with pytest.raises(CheckpointError, match="no image tower of MAFT in it"):
        import_maft_tower(state, source="model.pt")
