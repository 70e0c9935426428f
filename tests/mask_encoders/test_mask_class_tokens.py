"""Mask class tokens: the identities that hold whatever the weights."""

import pytest
import torch
from plain.mask_class_tokens import PlainMaskClassTokens
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.structures import Frame, FramedImage, Proposals

import open_clip  # isort: skip

TUNED = ["q", "k", "v", "qk", "qkv", "clip"]
VARIANTS = ["freeze", *TUNED]
PARTS = {
    "q": "query_projections.",
    "k": "key_projections.",
    "v": "value_projections.",
    "clip": "tower.",
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * 255


@pytest.fixture
def mask_logits() -> Tensor:
    """Two images with five masks: empty, full, and three of blobs."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 5, 3, 4, generator=generator)
    logits = torch.nn.functional.interpolate(logits, (10, 14), mode="bilinear")
    logits[:, 0] = -1
    logits[:, 1] = 1
    return logits


def tokens(*, quick_gelu: bool = True, stem: bool = False, **options: str) -> MaskClassTokens:
    clip = tiny_clip(quick_gelu=quick_gelu)
    if stem:
        clip.model.visual.conv1 = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(8, 32, 4, stride=4),
        )
    return MaskClassTokens(clip, **options)


def moved(encoder: MaskClassTokens) -> MaskClassTokens:
    """As after some training: no tuned weight is CLIP's any more."""
    torch.manual_seed(3)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return encoder


def embed(encoder: MaskClassTokens, images: Tensor, mask_logits: Tensor) -> Tensor:
    return encoder(images, encoder.visible_patches(mask_logits))


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("stem", [True, False])
def test_a_full_masks_token_is_the_class_token(
    images: Tensor, mask_logits: Tensor, quick_gelu: bool, stem: bool
) -> None:
    encoder = tokens(quick_gelu=quick_gelu, stem=stem)
    full = embed(encoder, images, mask_logits)[:, 1]
    torch.testing.assert_close(full, encoder.clip.encode_image(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", TUNED)
def test_what_is_copied_from_clip_changes_nothing_at_first(
    images: Tensor, mask_logits: Tensor, variant: str
) -> None:
    frozen = embed(tokens(), images, mask_logits)
    copied = embed(tokens(variant=variant, init="clip"), images, mask_logits)
    torch.testing.assert_close(copied, frozen, atol=1e-5, rtol=1e-5)


def test_queries_begin_random_as_released_and_keys_and_values_as_clips() -> None:
    begun = tokens(variant="qkv")
    copied = tokens(variant="qkv", init="clip").tuned_tensors()
    for name, value in begun.tuned_tensors().items():
        assert torch.equal(value, copied[name]) != name.startswith("query_projections")
    random = tokens(variant="qkv", init="random")
    assert torch.equal(random.query_projections[0].weight, begun.query_projections[0].weight)
    weights = [part[0].weight for part in (random.key_projections, random.value_projections)]
    assert not torch.equal(*weights)
    assert not torch.equal(weights[0], copied["key_projections.0.weight"])


def test_a_second_tower_that_begins_random_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"\[mask_encoder\] init: a second tower .* to clip"):
        tokens(variant="clip", init="random")


def test_random_new_queries_change_the_embeddings(images: Tensor, mask_logits: Tensor) -> None:
    frozen = embed(tokens(), images, mask_logits)
    assert (embed(tokens(variant="q"), images, mask_logits) - frozen).abs().max() > 0.01


def test_an_empty_mask_sees_the_class_token_alone(images: Tensor, mask_logits: Tensor) -> None:
    encoder = tokens()
    visible = encoder.visible_patches(mask_logits)
    assert not visible[:, 0].any()
    empty = encoder(images, visible)[:, 0]
    assert torch.isfinite(empty).all()
    plain = PlainMaskClassTokens(encoder)(images, torch.full_like(mask_logits, -9))[:, 0]
    torch.testing.assert_close(empty, plain, atol=1e-5, rtol=1e-5)


def test_a_logit_of_zero_is_outside() -> None:
    encoder = tokens()
    assert not encoder.visible_patches(torch.zeros(1, 1, 8, 8)).any()
    assert encoder.visible_patches(torch.full((1, 1, 8, 8), 1e-6)).all()


def test_one_positive_pixel_opens_its_patch() -> None:
    logits = torch.full((1, 1, 32, 32), -1.0)
    logits[0, 0, 9, 17] = 1.0
    assert tokens().visible_patches(logits).view(4, 4).nonzero().tolist() == [[1, 2]]


def test_masks_do_not_see_one_another(images: Tensor, mask_logits: Tensor) -> None:
    encoder = tokens(variant="q")
    together = embed(encoder, images, mask_logits)
    order = torch.tensor([4, 2, 0])
    alone = embed(encoder, images, mask_logits[:, order])
    torch.testing.assert_close(alone, together[:, order], atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_see_one_another(images: Tensor, mask_logits: Tensor) -> None:
    encoder = tokens(variant="q")
    together = embed(encoder, images, mask_logits)
    alone = embed(encoder, images[1:], mask_logits[1:])
    torch.testing.assert_close(alone, together[1:], atol=1e-5, rtol=1e-5)


def test_no_masks_give_no_embeddings(images: Tensor) -> None:
    encoder = tokens()
    assert embed(encoder, images, torch.zeros(2, 0, 10, 14)).shape == (2, 0, 16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_released_arithmetic(images: Tensor, mask_logits: Tensor, variant: str) -> None:
    encoder = moved(tokens(variant=variant))
    plain = PlainMaskClassTokens(encoder)(images, mask_logits)
    ours = embed(encoder, images, mask_logits)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", TUNED)
def test_gradients_are_those_of_one_sequence(
    images: Tensor, mask_logits: Tensor, variant: str
) -> None:
    encoder = moved(tokens(variant=variant)).double()
    images, mask_logits = images.double(), mask_logits.double()
    weights = torch.randn(2, 5, 16, dtype=torch.double)

    def gradients(embeddings: Tensor) -> list[Tensor]:
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        return list(torch.autograd.grad((embeddings * weights).sum(), parameters))

    ours = gradients(embed(encoder, images, mask_logits))
    plain = gradients(PlainMaskClassTokens(encoder)(images, mask_logits))
    for own, other in zip(ours, plain, strict=True):
        assert (own - other).norm() < 1e-6 * other.norm() + 1e-12


@pytest.mark.parametrize("variant", TUNED)
def test_training_moves_the_named_parts_and_leaves_clip_as_it_was(
    images: Tensor, mask_logits: Tensor, variant: str
) -> None:
    encoder = tokens(variant=variant).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    parts = [PARTS["clip"]] if variant == "clip" else [PARTS[part] for part in variant]
    for name in trained:
        assert name == "mask_position" or name.startswith(tuple(parts))
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01, weight_decay=0)
    for _ in range(3):
        embed(encoder, images, mask_logits).square().sum().backward()
        optimizer.step()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) != (name in trained), name
    assert all(parameter.grad is None for parameter in encoder.clip.parameters())
    assert not encoder.clip.training


def test_a_step_of_the_frozen_form_has_nothing_to_train() -> None:
    assert not [p for p in tokens().parameters() if p.requires_grad]


VIT_L_COUNTS = {
    "q": 25_190_400,
    "k": 25_190_400,
    "v": 25_190_400,
    "qk": 2 * 25_190_400,
    "qkv": 3 * 25_190_400,
    "clip": 304_293_888 - 3 * 14**2 * 1024 - 577 * 1024,  # no patches and no positions
}


@pytest.mark.parametrize(("variant", "count"), VIT_L_COUNTS.items())
def test_the_trainable_parameters_of_vit_l_are_those_of_the_paper_and_a_position(
    variant: str, count: int
) -> None:
    with torch.device("meta"):
        model = open_clip.create_model("ViT-L-14-336-quickgelu", pretrained=None, device="meta")
    encoder = MaskClassTokens(ClipEncoder(model), variant=variant, init="clip")
    trainable = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trainable == count + 1_024


def test_the_seed_decides_the_random_beginning_and_process_state_does_not() -> None:
    state = torch.get_rng_state()
    first, again, other = (tokens(variant="q", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    weight = "query_projections.0.weight"
    assert torch.equal(first.tuned_tensors()[weight], again.tuned_tensors()[weight])
    assert not torch.equal(first.tuned_tensors()[weight], other.tuned_tensors()[weight])


@pytest.mark.parametrize("variant", TUNED)
def test_tuned_tensors_carry_a_tuned_encoder_over(
    images: Tensor, mask_logits: Tensor, variant: str
) -> None:
    tuned, fresh = moved(tokens(variant=variant)), tokens(variant=variant)
    expected = embed(tuned, images, mask_logits)
    assert (embed(fresh, images, mask_logits) - expected).abs().max() > 1e-3
    fresh.load_tuned_tensors(tuned.tuned_tensors(), source="clip/masq")
    torch.testing.assert_close(embed(fresh, images, mask_logits), expected)


def test_tuned_tensors_of_another_variant_are_refused() -> None:
    other = tokens(variant="k").tuned_tensors()
    with pytest.raises(CheckpointError, match="or with other options"):
        tokens(variant="q").load_tuned_tensors(other, source="clip/masq-k")


def test_tuned_tensors_of_another_clip_are_refused() -> None:
    other = MaskClassTokens(tiny_clip(layers=2), variant="q")
    with pytest.raises(CheckpointError, match="clip/masq: tuned for another CLIP"):
        tokens(variant="q").load_tuned_tensors(other.tuned_tensors(), source="clip/masq")


def test_an_image_and_its_proposals_are_encoded_as_in_training(
    images: Tensor, mask_logits: Tensor
) -> None:
    encoder = tokens(variant="q")
    frame = Frame((40, 56), (40, 56), (40, 56))
    proposals = Proposals(mask_logits[0], frame, torch.ones(5))
    encoded = encoder.encode(FramedImage(images[0], frame), proposals)
    expected = embed(encoder, images[:1], mask_logits[:1])[0].detach()
    torch.testing.assert_close(encoded.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert encoded.mask_logits is proposals.mask_logits
    assert encoded.valid.all()
    assert not encoded.embeddings.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near_and_answers_in_float32(
    images: Tensor, mask_logits: Tensor, dtype: torch.dtype
) -> None:
    encoder = tokens(variant="q")
    expected = embed(encoder, images, mask_logits)
    with torch.autocast("cpu", dtype=dtype):
        half = embed(encoder, images, mask_logits)
    assert half.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(half, expected, dim=-1)
    assert cosine.min() > 0.99


def test_a_resnet_tower_is_refused() -> None:
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    vision = {"layers": (1, 1, 1, 1), "width": 32, "head_width": 8, "image_size": 32}
    with pytest.raises(CheckpointError, match="need a square vision transformer"):
        MaskClassTokens(ClipEncoder(open_clip.CLIP(16, vision, text)))
