from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.plugged_tower import put_tower
from ovseg_cli.checkpoints.run_parts import artifacts_of, mask_encoder_of
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.errors import CheckpointError, RecipeError, RunError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.recipe import Recipe, parse_recipe
from ovseg_cli.run import Run, StageRecord, file_hash
from ovseg_cli.stages.recipe_check import check_recipe

SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "image_size": 32,
    "patch_size": 16,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "text_width": 8,
    "text_heads": 2,
    "token_width": 4,
    "context_length": 8,
}
CPU = torch.device("cpu")


def built(seed: int) -> ClipEncoder:
    torch.manual_seed(seed)
    return ClipEncoder(build_small_clip(**SMALL).eval())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With a CLIP, and another tower for it."""
    run = Run(tmp_path)
    model = {"architecture": "small", "options": SMALL}
    run.save_artifact("clip", "base", built(0).model.state_dict(), model)
    tower = {f"visual.{n}": t for n, t in built(1).model.visual.state_dict().items()}
    run.save_artifact("clip", "maft", tower, {"mode": "maft", "base": "base"})
    hashes = {"clip/base": file_hash(run.artifact_path("clip", "base"))}
    run.record(StageRecord("tune-clip", "x", 1.0, artifact="clip/maft", inputs=hashes))
    return run


def recipe(tower: str | None, **sections: dict[str, Any]) -> Recipe:
    clip = {"name": "small", **SMALL, **({"tower": tower} if tower else {})}
    return Recipe("a test", 0, {"clip": clip, **sections})


def test_the_tower_takes_the_place_of_clips_and_the_words_stay(run: Run) -> None:
    images = torch.rand(2, 3, 32, 32) * 255
    plugged = clip_of(run, recipe("maft"))
    torch.testing.assert_close(plugged.encode_image(images), built(1).encode_image(images))
    torch.testing.assert_close(plugged.encode_text(["a cat"]), built(0).encode_text(["a cat"]))
    own = clip_of(run, recipe(None)).encode_image(images)
    torch.testing.assert_close(own, built(0).encode_image(images))
    assert artifacts_of(run, recipe("maft"), proposer=False) == ("clip/base", "clip/maft")


def test_what_was_tuned_on_one_tower_is_not_used_on_another(run: Run) -> None:
    section = {"name": "mask_class_tokens", "variant": "q"}
    on_tower, on_clip = (recipe(t, mask_encoder=section) for t in ("maft", None))
    tensors = MaskClassTokens(clip_of(run, on_tower), variant="q").tuned_tensors()
    run.save_artifact("clip", "masq", tensors, {"mode": "masq", "base": "maft"})
    mask_encoder_of(run, on_tower, clip_of(run, on_tower), device=CPU)
    with pytest.raises(
        CheckpointError, match="tuned on clip/maft, but the recipe's CLIP is clip/b"
    ):
        mask_encoder_of(run, on_clip, clip_of(run, on_clip), device=CPU)


def test_a_tower_for_an_earlier_clip_is_refused(run: Run) -> None:
    model = {"architecture": "small", "options": SMALL}
    run.save_artifact("clip", "base", built(2).model.state_dict(), model)
    with pytest.raises(CheckpointError, match="tuned for an earlier clip/base"):
        clip_of(run, recipe("maft"))


def test_what_holds_no_tower_or_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(RunError, match="clip/other"):
        clip_of(run, recipe("other"))
    run.artifact_path("clip", "maft").unlink()
    with pytest.raises(RunError, match="make it with 'ovseg tune-clip --mode maft"):
        clip_of(run, recipe("maft"))
    with pytest.raises(CheckpointError, match=r"prompts: holds no image tower, as \[clip\] tower"):
        put_tower(built(0), {"mask_prompts.prompts": torch.zeros(1)}, source="prompts")
    with pytest.raises(CheckpointError, match="weights of another model"):
        put_tower(built(0), {"visual.proj": torch.zeros(1)}, source="clip/maft")


def test_a_recipe_may_name_a_tower() -> None:
    check_recipe(parse_recipe("clip: {name: small, tower: maft}", name="r"))
    with pytest.raises(RecipeError, match=r"\[clip\] tower: expected the name of a tuned clip"):
        check_recipe(parse_recipe("clip: {name: small, tower: 3}", name="r"))
