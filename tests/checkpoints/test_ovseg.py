"""OVSeg's released layout into CLIP's parts."""

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.checkpoints.ovseg import import_ovseg
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops


def a_clip() -> dict[str, Tensor]:
    return {**tiny_clip().model.state_dict(), "visual.mask_embedding": torch.rand(2, 16, 32)}


@pytest.mark.parametrize("prefix", ["clip_adapter.clip_model.", "module.", ""])
def test_a_whole_model_and_a_clip_of_its_own_give_the_same_parts(prefix: str) -> None:
    state = {prefix + name: value for name, value in a_clip().items()}
    weights = import_ovseg(state, source="a file")
    clip = tiny_clip(seed=1)
    load_weights(clip.visual, weights.visual, source="visual")
    assert torch.equal(clip.visual.proj, state[f"{prefix}visual.proj"])
    crops = MaskedCrops(clip, tuned="mpt", prompts=2)
    crops.load_tuned_tensors(weights.mask_prompts, source="prompts")
    assert torch.equal(crops.tuned_tensors()["mask_prompts.prompts"], a_prompt(state, prefix))
    assert weights.text["text_projection"].shape == (8, 16)
    assert "logit_scale" in weights.text
    assert weights.no_object is None


def a_prompt(state: dict[str, Tensor], prefix: str) -> Tensor:
    return state[f"{prefix}visual.mask_embedding"]


def test_the_segmenter_is_left_out_and_its_void_is_not() -> None:
    state = {f"clip_adapter.clip_model.{name}": value for name, value in a_clip().items()}
    void = torch.rand(1, 16)
    others = {"backbone.norm0.weight": void, "clip_adapter.non_object_embedding": void}
    weights = import_ovseg({**state, **others}, source="a file")
    assert weights.no_object is not None
    assert torch.equal(weights.no_object, void[0])
    assert not any("norm0" in name for name in (*weights.text, *weights.visual))


def test_a_tower_that_was_tuned_without_prompts_has_none() -> None:
    state = {f"module.{name}": value for name, value in tiny_clip().model.state_dict().items()}
    assert import_ovseg(state, source="a file").mask_prompts == {}


def test_another_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"a\.pth: no OVSeg in it"):
        import_ovseg({"backbone.stem.weight": torch.zeros(1)}, source="a.pth")
