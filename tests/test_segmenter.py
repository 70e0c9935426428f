"""The Python API on a tiny random CLIP and a proposer with fixed masks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip
from untrained_run import untrained_run

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.checkpoints.proposer_parts import proposals_name
from ovseg_cli.checkpoints.run_parts import artifacts_of, tuned_name
from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import RecipeError, RunError, VocabularyError
from ovseg_cli.inference import InferenceOptions
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, StageRecord
from ovseg_cli.segmenter import Segmenter, options_of
from ovseg_cli.structures import (
    EncodedImage,
    EncodedMasks,
    FramedImage,
    Proposals,
    TextEmbeddings,
    Vocabulary,
)
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
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


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


class Encoded(MaskClassTokens):
    """Mask class tokens that say that they read dense features, and count who makes them."""

    def __init__(self, clip: ClipEncoder) -> None:
        super().__init__(clip)
        self.images = 0

    @property
    def dense(self) -> "Encoded":
        return self

    def encode(
        self, framed: FramedImage, proposals: Proposals | None = None
    ) -> EncodedImage | EncodedMasks:
        if proposals is not None:
            assert framed.encoded is not None
            return super().encode(framed, proposals)
        self.images += 1
        return EncodedImage((framed.pixels[:, ::32, ::32],))


def test_an_image_is_encoded_once_for_the_encoder_that_reads_it(image: torch.Tensor) -> None:
    clip = tiny_clip()
    encoder = Encoded(clip)
    segmenter = Segmenter(Quarters(), encoder, clip, inference=InferenceOptions(0.0))
    segmenter.predict(image, "dog,cat")
    assert encoder.images == 1
    encoder = Encoded(clip)
    second = Segmenter(Quarters(), MaskClassTokens(clip), clip, in_vocabulary=encoder)
    second.predict(image, "dog,cat")
    assert encoder.images == 1


def test_masks_that_their_proposer_takes_for_void_can_be_left_out(image: torch.Tensor) -> None:
    clip = tiny_clip()
    segmenter = Segmenter(
        None,
        MaskedCrops(clip, least_score=0.5),
        clip,
        classification=Classification(background=None),
    )
    vocabulary = parse_labels("dog,cat")
    framed = segmenter.frame(image)
    embeddings = segmenter.text_embeddings(vocabulary).embeddings
    void = -embeddings.sum(0)
    proposals = replace(
        Quarters().propose(framed),
        scores=torch.tensor([0.9, 0.9, 0.1, 0.1]),
        embeddings=torch.stack([void, embeddings[0], void, embeddings[1]]),
        no_object=void,
        logit_scale=100.0,
    )
    assert segmenter.encode(framed, proposals).valid.tolist() == [True, True, False, False]
    encoded, probabilities = segmenter.classify(framed, proposals, vocabulary)
    assert encoded.valid.tolist() == [False, True, False, True]
    assert not probabilities[[0, 2]].any()
    own = replace(proposals, embeddings=None)
    assert segmenter.encode(framed, own, vocabulary).valid.tolist() == [True, True, False, False]


def test_of_masks_that_are_nearly_the_same_the_one_furthest_from_void_is_looked_at(
    image: torch.Tensor,
) -> None:
    clip = tiny_clip()
    vocabulary = parse_labels("dog,cat")
    one, few = (Segmenter(None, MaskedCrops(clip, same_above=s), clip) for s in (None, 0.8))
    framed = one.frame(image)
    embeddings = one.text_embeddings(vocabulary).embeddings
    mask_logits = torch.ones(2, 8, 8)
    mask_logits[0, 0] = -1
    proposals = Proposals(
        mask_logits,
        framed.frame,
        torch.ones(2),
        embeddings=torch.stack([-embeddings.sum(0), embeddings[0]]),
        no_object=-embeddings.sum(0),
        logit_scale=100.0,
    )
    alone = one.encode(framed, proposals, vocabulary).embeddings
    shared = few.encode(framed, proposals, vocabulary).embeddings
    assert not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(shared, alone[[1, 1]])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_two_encoders_give_an_ensemble(image: torch.Tensor, weight: float) -> None:
    clip = tiny_clip()
    tokens, crops = MaskClassTokens(clip), MaskedCrops(clip)
    options = Classification(scale=10.0, ensemble="geometric", alpha=weight, beta=weight)
    together = Segmenter(Quarters(), tokens, clip, in_vocabulary=crops, classification=options)
    vocabulary = parse_labels("dog,cat,sky:stuff")
    framed = together.frame(image)
    proposals = together.propose(framed)
    encoded, found = together.classify(framed, proposals, vocabulary)
    assert torch.equal(encoded.embeddings, together.encode(framed, proposals).embeddings)
    plain = Classification(scale=10.0)
    _, inside = Segmenter(None, crops, clip, classification=plain).classify(
        framed, proposals, vocabulary
    )
    _, outside = Segmenter(None, tokens, clip, classification=plain).classify(
        framed, proposals, vocabulary
    )
    without_background = outside / outside.sum(-1, keepdim=True)
    expected = inside if weight == 0 else inside.sum(-1, keepdim=True) * without_background
    torch.testing.assert_close(found, expected)


def test_classifiers_are_combined_again_without_the_networks(
    segmenter: Segmenter, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = parse_labels("dog,cat,elk")
    framed = segmenter.frame(image)
    proposals = segmenter.propose(framed)
    encoded, expected = segmenter.classify(framed, proposals, vocabulary)
    logits = segmenter.logits(framed, proposals, vocabulary, encoded=encoded)
    monkeypatch.setattr(MaskClassTokens, "encode", None)
    assert torch.equal(segmenter.classification.combine(logits), expected)
    dogs = segmenter.classification.combine(logits, classes=torch.tensor([True, False, False]))
    assert (dogs[:, 1:] == 0).all()


def two_encoders(folder: Path, **classification: object) -> Recipe:
    """The recipe of a run of random weights: tuned tokens are the in-vocabulary side."""
    run = Run(untrained_run(folder))
    sections = {
        **run.recipe().sections,
        "in_vocabulary": {"name": "mask_class_tokens", "variant": "q"},
        "classification": {"ensemble": "geometric", **classification},
    }
    tuned = MaskClassTokens(clip_of(run, run.recipe()), variant="q", seed=3)
    run.save_artifact("clip", "masq", tuned.tuned_tensors(), {})
    return Recipe("two", sections=sections)


def test_a_run_has_an_ensemble_of_two_encoders(tmp_path: Path, image: torch.Tensor) -> None:
    recipe = two_encoders(tmp_path)
    run = Run(tmp_path)
    names = ("proposals/teacher", "clip/base", "clip/masq")
    assert artifacts_of(run, recipe) == names
    segmenter = Segmenter.from_run(run, recipe)
    with pytest.raises(RecipeError, match=r"set vocabulary\.training"):
        segmenter.predict(image, "dog,cat")
    recipe.sections["vocabulary"] = {"training": "hound/dog,bird"}
    segmenter = Segmenter.from_run(run, recipe)
    assert segmenter.seen(parse_labels("dog,cat")).tolist() == [True, False]
    result = segmenter.predict(image, "dog,cat")
    assert result.semantic.shape == (40, 56)
    vocabulary = parse_labels("dog,cat")
    framed = segmenter.frame(image)
    logits = segmenter.logits(framed, segmenter.propose(framed), vocabulary)
    assert logits.in_vocabulary.shape == logits.out_of_vocabulary.shape == (5, 3)
    assert not torch.allclose(logits.in_vocabulary, logits.out_of_vocabulary)


def test_what_the_proposals_were_trained_on_comes_before_the_recipe(tmp_path: Path) -> None:
    recipe = two_encoders(tmp_path)
    recipe.sections["vocabulary"] = {"training": "cat"}
    run = Run(tmp_path)
    tensors, model = run.load_artifact("proposals", "teacher")
    words = {"names": ["dog"], "synonyms": [["dog"]], "is_thing": [True]}
    run.save_artifact("proposals", "teacher", tensors, {**model, "vocabulary": words})
    segmenter = Segmenter.from_run(run, recipe)
    assert segmenter.seen(parse_labels("dog,cat")).tolist() == [True, False]
    itself = Vocabulary(("dog", "cat"), (("dog",), ("cat",)), (True, True), (False, False))
    assert segmenter.seen(itself).tolist() == [False, False]


@pytest.mark.parametrize("options", [{"ensemble": "arithmetic"}, {"classifier": "in_vocabulary"}])
@pytest.mark.parametrize("proposer", [{}, {"name": "mask2former"}])
def test_an_ensemble_of_one_is_refused(options: dict[str, str], proposer: dict[str, str]) -> None:
    sections = {"classification": options, "proposer": proposer}
    with pytest.raises(RecipeError, match=r"\[classification\] .*set in_vocabulary\.name"):
        options_of(Recipe("r", sections=sections))
    sections["proposer"] = {"name": "clip_mask2former"}
    assert options_of(Recipe("r", sections=sections))["classification"].needs_in_vocabulary


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


def test_a_recipe_may_name_what_its_own_mask_encoder_is_tuned_to() -> None:
    named = Recipe(
        "r",
        sections={
            "mask_encoder": {"name": "mask_class_tokens", "variant": "q"},
            "artifacts": {"tuned": "half"},
        },
    )
    assert tuned_name(named) == "half"
    assert tuned_name(named, {"name": "mask_class_tokens", "variant": "k"}) == "masq-k"
    assert tuned_name(named, {"name": "mask_pooling"}) is None
    plain = Recipe("r", sections={"artifacts": {"tuned": "half"}})
    assert tuned_name(plain) is None


def test_a_recipe_may_name_the_proposals_it_takes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("teacher", "student-1"):
        run.save_artifact("proposals", name, {"w": torch.zeros(1)}, {})
        run.record(StageRecord("train", "f", 1.0, artifact=f"proposals/{name}"))
    named = Recipe("r", sections={"artifacts": {"proposals": "teacher"}})
    assert proposals_name(run, named) == "teacher"
    assert proposals_name(run, Recipe("r")) == "student-1"
    assert "proposals/teacher" in artifacts_of(run, named)


class WordsTold:
    """Finds as many masks as it was told classes, and remembers the names of images."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.names: list[str | None] = []

    def with_words(self, texts: TextEmbeddings) -> "WordsTold":
        self.told.append(int(texts.class_of[-1]) + 1 - texts.has_background)
        self.masks = self.told[-1]
        return self

    def propose_batch(self, images: torch.Tensor) -> list[Proposals]:
        raise AssertionError("nobody trains here")

    def propose(self, framed: FramedImage) -> Proposals:
        self.names.append(framed.name)
        return Proposals(torch.ones(self.masks, 2, 2), framed.frame, torch.ones(self.masks))


def test_a_proposer_that_reads_words_is_told_each_vocabulary_once(image: torch.Tensor) -> None:
    clip, reader = tiny_clip(), WordsTold()
    segmenter = Segmenter(reader, MaskClassTokens(clip), clip)
    for labels in ("dog,cat", "dog,cat", "elk"):
        segmenter.predict(image, labels, name="a.jpg")
    assert reader.told == [2, 1]
    assert reader.names == ["a.jpg"] * 3


def test_without_a_vocabulary_it_reads_the_words_of_its_training(image: torch.Tensor) -> None:
    clip, reader = tiny_clip(), WordsTold()
    encoder = MaskClassTokens(clip)
    segmenter = Segmenter(reader, encoder, clip, training_vocabulary=parse_labels("a,b,c"))
    assert len(segmenter.propose(segmenter.frame(image)).scores) == 3
    without = Segmenter(reader, encoder, clip)
    with pytest.raises(RecipeError, match=r"\[vocabulary\] training: this proposer reads words"):
        without.propose(without.frame(image))
