"""The Python API on a tiny random CLIP and a proposer with fixed masks."""

from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip
from untrained_run import untrained_run

from ovseg_cli.checkpoints.run_parts import artifacts_of, proposals_name
from ovseg_cli.classification import Classification
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import RecipeError, RunError, VocabularyError
from ovseg_cli.inference import InferenceOptions
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord
from ovseg_cli.segmenter import Segmenter, options_of
from ovseg_cli.structures import FramedImage, Proposals
from ovseg_cli.vocabulary.labels import parse_labels


class Quarters:
    """The four quarters of the padded frame as proposals, at stride 4."""

    def __init__(self) -> None:
        self.calls = 0

    def propose(self, framed: FramedImage) -> Proposals:
        self.calls += 1
        height, width = (side // 4 for side in framed.frame.padded)
        masks = torch.full((4, height, width), -5.0)
        for place, mask in enumerate(masks):
            top, left = (place // 2) * (height // 2), (place % 2) * (width // 2)
            mask[top : top + height // 2, left : left + width // 2] = 5.0
        return Proposals(masks, framed.frame, torch.tensor([0.9, 0.8, 0.7, 0.6]))


@pytest.fixture
def segmenter() -> Segmenter:
    clip = tiny_clip()
    return Segmenter(
        Quarters(),
        MaskClassTokens(clip),
        clip,
        framing=FramingOptions(short_side=None, max_side=None),
        inference=InferenceOptions(object_threshold=0.0),
    )


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=generator)


def test_words_give_three_results_of_the_images_size(
    segmenter: Segmenter, image: torch.Tensor
) -> None:
    result = segmenter.predict(image, "dog,grass:stuff,cat/kitten")
    assert result.panoptic.shape == result.semantic.shape == (40, 56)
    assert int(result.semantic.max()) <= 2
    assert result.instances.masks.shape[1:] == (40, 56)
    ids = {segment.id for segment in result.segments}
    assert ids == set(result.panoptic.unique().tolist()) - {0}
    assert all(0 < segment.score <= 1 for segment in result.segments)


def test_only_the_tasks_that_are_asked_for_are_made(
    segmenter: Segmenter, image: torch.Tensor
) -> None:
    result = segmenter.predict(image, "dog,cat", tasks=("semantic",))
    assert result.panoptic is None
    assert result.instances is None
    assert result.semantic is not None


def test_the_same_words_are_encoded_once(
    segmenter: Segmenter, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.predict(image, "dog,cat")
    monkeypatch.setattr(type(segmenter.clip), "encode_text", None)
    segmenter.predict(image, "dog,cat")


def test_predictions_are_the_same_each_time(segmenter: Segmenter, image: torch.Tensor) -> None:
    first, second = (segmenter.predict(image, "dog,cat,sky:stuff") for _ in range(2))
    assert torch.equal(first.panoptic, second.panoptic)
    assert torch.equal(first.instances.scores, second.instances.scores)


def test_masks_that_are_handed_in_need_no_proposer(
    segmenter: Segmenter, image: torch.Tensor
) -> None:
    framed = segmenter.frame(image)
    proposals = segmenter.propose(framed)
    alone = Segmenter(None, segmenter.mask_encoder, segmenter.clip, framing=segmenter.framing)
    words = "dog,cat"
    with pytest.raises(ValueError, match="no proposer"):
        alone.predict(image, words)
    vocabulary = parse_labels(words)
    _, expected = segmenter.classify(framed, proposals, vocabulary)
    _, found = alone.classify(framed, proposals, vocabulary)
    assert torch.equal(found, expected)


def test_text_embeddings_are_kept_on_disk_between_processes(tmp_path: Path) -> None:
    clip = tiny_clip()
    parts = (Quarters(), MaskClassTokens(clip), clip)
    for _ in range(2):
        segmenter = Segmenter(*parts, text_cache=tmp_path, text_key="tiny")
        segmenter.text_embeddings(parse_labels("dog,cat"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_bad_words_are_refused(segmenter: Segmenter, image: torch.Tensor) -> None:
    with pytest.raises(VocabularyError):
        segmenter.predict(image, "dog,dog")


def test_a_recipes_sections_are_checked() -> None:
    recipe = Recipe("r", sections={"classification": {"scale": 10}, "inference": {"top_k": 5}})
    options = options_of(recipe)
    assert options["classification"] == Classification(scale=10.0)
    assert options["inference"].top_k == 5
    with pytest.raises(RecipeError, match=r"\[framing\] short_sid: .*did you mean 'short_side'"):
        options_of(Recipe("r", sections={"framing": {"short_sid": 5}}))


def test_a_run_without_artifacts_names_the_command(tmp_path: Path) -> None:
    recipe = Recipe("r", sections={"proposer": {"name": "mask2former"}})
    with pytest.raises(RunError, match="ovseg train-clip"):
        Segmenter.from_run(Run(tmp_path), recipe)
    run = Run(untrained_run(tmp_path))
    run.artifact_path("proposals", "teacher").unlink()
    with pytest.raises(RunError, match="ovseg train-proposals"):
        Segmenter.from_run(run)


def test_the_artifacts_of_a_recipe_are_named(tmp_path: Path) -> None:
    tuned = Recipe("r", sections={"mask_encoder": {"name": "mask_class_tokens", "variant": "q"}})
    assert artifacts_of(Run(tmp_path), tuned) == ("proposals/teacher", "clip/base", "clip/masq")
    assert artifacts_of(Run(tmp_path), Recipe("r"), proposer=False) == ("clip/base",)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_result(segmenter: Segmenter, image: torch.Tensor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = segmenter.predict(image, "dog,cat,sky:stuff")
    device = torch.device("cuda")
    clip = tiny_clip().to(device)
    on_gpu = Segmenter(
        Quarters(),
        MaskClassTokens(clip).to(device),
        clip,
        framing=segmenter.framing,
        inference=segmenter.inference,
        device=device,
    )
    found = on_gpu.predict(image, "dog,cat,sky:stuff")
    assert found.panoptic.device.type == "cpu"
    assert (found.semantic != expected.semantic).float().mean() < 0.01
    torch.testing.assert_close(
        found.instances.scores, expected.instances.scores, atol=1e-3, rtol=1e-3
    )


def test_a_recipe_may_name_the_proposals_it_takes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("teacher", "student-1"):
        run.save_artifact("proposals", name, {"w": torch.zeros(1)}, {})
        run.record(StageRecord("train", "f", 1.0, artifact=f"proposals/{name}"))
    named = Recipe("r", sections={"artifacts": {"proposals": "teacher"}})
    assert proposals_name(run, named) == "teacher"
    assert proposals_name(run, Recipe("r")) == "student-1"
    assert "proposals/teacher" in artifacts_of(run, named)
