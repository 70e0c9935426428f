"""Relative mask attention: the identities that hold whatever the weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.relative_mask_attention import PlainRelativeMaskAttention
from tiny_clip import tiny_clip
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.vision_transformer import finish_block, image_layers, own_queries, split_heads
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.mask_encoders import mask_relations, tuned_artifact
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.mask_encoders.mask_relations import MaskRefinement, from_patches, to_patches
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention
from ovseg_cli.structures import Frame, FramedImage, Proposals

import open_clip  # isort: skip


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * 255


@pytest.fixture
def mask_logits() -> Tensor:
    """Two images with five masks: empty, full, and three of blobs."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 5, 3, 4, generator=generator)
    logits = F.interpolate(logits, (10, 14), mode="bilinear")
    logits[:, 0] = -9
    logits[:, 1] = 1
    return logits


def attention(*, quick_gelu: bool = True, **options: object) -> RelativeMaskAttention:
    """Of four layers, 1 and 3 relate and refine unless the options say otherwise."""
    chosen = {"layers": (1, 3), **options}
    return RelativeMaskAttention(tiny_clip(layers=4, quick_gelu=quick_gelu), **chosen)


def added(encoder: RelativeMaskAttention) -> dict[str, Tensor]:
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_relations, "CACHED", 2 * 32 * 32)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": None}, {"layers": (0,)}, {"refine": False}, {"quick_gelu": False}],
    ids=str,
)
def test_it_is_the_released_arithmetic(
    images: Tensor, mask_logits: Tensor, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_few_at_a_time(monkeypatch)
    encoder = attention(**options)
    embeddings, masks = encoder(images, mask_logits)
    expected_embeddings, expected_masks = PlainRelativeMaskAttention(encoder)(images, mask_logits)
    close(embeddings, expected_embeddings)
    assert len(masks) == len(expected_masks)
    for found, expected in zip(masks, expected_masks, strict=True):
        close(found, expected)


@pytest.mark.parametrize("refine", [True, False])
def test_gradients_are_those_of_one_sequence(
    images: Tensor, mask_logits: Tensor, refine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_few_at_a_time(monkeypatch)
    encoder = attention(refine=refine).double()
    images, mask_logits = images.double(), mask_logits.double()

    def gradients(module: torch.nn.Module) -> list[Tensor]:
        embeddings, masks = module(images, mask_logits)
        loss = embeddings.square().sum()
        if refine:
            loss = loss + sum(step.sigmoid().square().mean() for step in masks)
        return list(torch.autograd.grad(loss, list(added(encoder).values())))

    ours, plain = gradients(encoder), gradients(PlainRelativeMaskAttention(encoder))
    for own, other in zip(ours, plain, strict=True):
        assert (own - other).norm() < 1e-7 * other.norm() + 1e-12
        assert other.norm() > 0


def test_gradients_are_the_slopes() -> None:
    clip = tiny_clip(resolution=8, patch=4, width=4, layers=1, heads=2, dim=2)
    encoder = RelativeMaskAttention(clip).double()
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.double) * 255
    logits = torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.double)
    parameters = added(encoder)

    def outputs(*values: Tensor) -> tuple[Tensor, Tensor]:
        state = dict(zip(parameters, values, strict=True))
        embeddings, masks = functional_call(encoder, state, (image, logits))
        return embeddings, masks[-1][:, :, ::3, ::3]

    inputs = tuple(p.detach().clone().requires_grad_() for p in parameters.values())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)


def test_no_tensor_of_masks_patches_and_channels_is_kept_for_the_backward_pass() -> None:
    clip = tiny_clip(resolution=16, patch=4, layers=2, width=32)
    encoder = RelativeMaskAttention(clip, layers=(0, 1))
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    masks, patches, channels = 40, 16, 32
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encoder(torch.rand(1, 3, 16, 16) * 255, torch.randn(1, masks, 16, 16))
    assert 0 < largest < masks * patches * channels


def test_training_moves_what_is_added_and_leaves_clip_as_it_was(
    images: Tensor, mask_logits: Tensor
) -> None:
    encoder = attention().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(added(encoder).values(), lr=0.01, weight_decay=0)
    for _ in range(2):
        embeddings, masks = encoder(images, mask_logits)
        (embeddings.square().sum() + masks[-1].sigmoid().sum()).backward()
        optimizer.step()
    assert set(added(encoder)) == set(encoder.tuned_tensors())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("clip."), name
    assert all(parameter.grad is None for parameter in encoder.clip.parameters())
    assert not encoder.clip.training


def test_every_refinement_gives_masks_of_its_own_and_leaves_the_callers_as_they_were(
    images: Tensor,
) -> None:
    encoder = attention()
    side = encoder.clip.resolution
    given = torch.randn(2, 5, side, side)
    before = given.clone()
    masks = encoder(images, given).mask_logits
    assert torch.equal(given, before)
    storages = {tensor.untyped_storage().data_ptr() for tensor in (given, *masks)}
    assert len(storages) == 3
    assert not torch.equal(masks[0], masks[1])


def test_masks_do_not_see_one_another(images: Tensor, mask_logits: Tensor) -> None:
    encoder = attention()
    together, masks = encoder(images, mask_logits)
    order = torch.tensor([4, 2, 0])
    alone, fewer = encoder(images, mask_logits[:, order])
    close(alone, together[:, order])
    close(fewer[-1], masks[-1][:, order])


def test_images_of_a_batch_do_not_see_one_another(images: Tensor, mask_logits: Tensor) -> None:
    encoder = attention()
    together, masks = encoder(images, mask_logits)
    alone, own = encoder(images[1:], mask_logits[1:])
    close(alone, together[1:])
    close(own[-1], masks[-1][1:])


@pytest.mark.parametrize("count", [0, 1, 250])
def test_any_number_of_masks_will_do(images: Tensor, count: int) -> None:
    encoder = attention()
    embeddings, masks = encoder(images, torch.randn(2, count, 10, 14))
    assert embeddings.shape == (2, count, 16)
    assert [tuple(step.shape) for step in masks] == [(2, count, 32, 32)] * 2
    assert embeddings.isfinite().all()


def test_an_empty_mask_has_an_embedding_and_sees_no_patch(
    images: Tensor, mask_logits: Tensor
) -> None:
    encoder = attention(layers=(3,))
    for relation in encoder.relations.values():
        torch.nn.init.zeros_(relation.keys.weight)
    other = 255 - images
    empty, full = (encoder(images, mask_logits).embeddings[:, mask] for mask in (0, 1))
    assert empty.isfinite().all()
    frozen = MaskClassTokens(encoder.clip)
    expected = frozen(images, frozen.visible_patches(mask_logits))[:, 0]
    close(empty, expected)
    assert (encoder(other, mask_logits).embeddings[:, 1] - full).abs().max() > 0.01


def test_a_logit_of_zero_is_inside(images: Tensor) -> None:
    encoder = attention(refine=False)
    at_zero, above, below = (
        encoder(images, torch.full((2, 1, 32, 32), value)).embeddings
        for value in (0.0, 1e-6, -1e-6)
    )
    close(at_zero, above)
    assert (at_zero - below).abs().max() > 0.01


def test_without_norm_weights_the_scores_of_patches_are_halved(
    images: Tensor, mask_logits: Tensor
) -> None:
    clip = tiny_clip(layers=1)
    encoder = RelativeMaskAttention(clip, layers=(0,), refine=False)
    for parameter in encoder.relations["0"].norm.parameters():
        torch.nn.init.zeros_(parameter)
    visual = clip.visual
    block = visual.transformer.resblocks[0]
    (image,) = image_layers(visual, clip.preprocess(images))
    start = visual.ln_pre(visual.class_embedding + visual.positional_embedding[0])
    tokens = start.expand(2, 1, -1)
    queries = split_heads(own_queries(block, block.ln_1(tokens)), block.attn.num_heads)
    scores = queries @ image.keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    scores[..., 1:] /= 2
    tokens = finish_block(block, tokens, scores.softmax(-1) @ image.values)
    expected = visual.ln_post(tokens) @ visual.proj
    close(encoder(images, mask_logits).embeddings[:, 1:2], expected)


def test_a_refinement_of_zeros_leaves_the_masks_unchanged(
    images: Tensor, mask_logits: Tensor
) -> None:
    encoder, unrefined = attention(), attention(refine=False)
    for parameter in encoder.refinements.parameters():
        torch.nn.init.zeros_(parameter)
    embeddings, masks = encoder(images, mask_logits)
    expected, (given,) = unrefined(images, mask_logits)
    torch.testing.assert_close(embeddings, expected)
    assert all(torch.equal(step, given) for step in masks)
    torch.testing.assert_close(given, F.interpolate(mask_logits, (32, 32), mode="bilinear"))


@pytest.mark.parametrize("channel", [0, 1, 7, 13])
def test_a_channel_is_a_pixel_of_every_patch(channel: int) -> None:
    refinement = MaskRefinement(width=8, heads=2, patch=4)
    torch.nn.init.zeros_(refinement.pixels.weight)
    refinement.pixels.bias.data = F.one_hot(torch.tensor(channel), 16).float()
    masks = torch.zeros(1, 2, 12, 12)
    with torch.no_grad():
        refined = refinement(masks, torch.randn(1, 2, 8), torch.randn(1, 9, 8))
    expected = torch.zeros(12, 12)
    expected[channel // 4 :: 4, channel % 4 :: 4] = 1
    assert torch.equal(refined, expected.expand(1, 2, 12, 12))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 5))
def test_patches_make_up_the_mask_that_they_were_taken_from(
    count: int, grid: int, patch: int
) -> None:
    masks = torch.randn(count, grid * patch, grid * patch)
    patches = to_patches(masks, patch)
    assert patches.shape == (grid**2, count, patch**2)
    rows = patches.transpose(0, 1).reshape(-1, patch**2)
    assert torch.equal(from_patches(rows, masks.shape, patch), masks)
    if count and grid > 1:
        assert torch.equal(patches[1, 0].view(patch, patch), masks[0, :patch, patch : 2 * patch])


@pytest.mark.parametrize(("refine", "count"), [(True, 5_817_104), (False, 5_013_504)])
def test_the_added_parameters_of_vit_l_are_as_many_as_released(refine: bool, count: int) -> None:
    with torch.device("meta"):
        model = open_clip.create_model("ViT-L-14-336-quickgelu", pretrained=None, device="meta")
    encoder = RelativeMaskAttention(ClipEncoder(model), refine=refine)
    assert encoder.layers == (5, 11, 17, 23)
    assert sum(p.numel() for p in added(encoder).values()) == count


def test_it_begins_as_released() -> None:
    clip = tiny_clip(resolution=64, patch=16, width=64)
    encoder = RelativeMaskAttention(clip, layers=(1,))
    relation, refinement = encoder.relations["1"], encoder.refinements["1"]
    for weight in (relation.patches.weight, relation.keys.weight, refinement.pixels.weight):
        assert weight.std().item() == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.05)
    for bias in (relation.patches.bias, refinement.pixels.bias):
        assert 0 <= bias.min() < 0.1 < 0.9 < bias.max() <= 1
    assert not relation.keys.bias.any()
    assert relation.norm.weight.eq(1).all()
    assert not relation.norm.bias.any()


def test_it_can_begin_as_frozen_mask_class_tokens(images: Tensor, mask_logits: Tensor) -> None:
    """Exactly in the first layer, where the class token's query is the same in every image."""
    encoder = attention(layers=(0,), init="identity")
    frozen = MaskClassTokens(encoder.clip)
    embeddings, (masks,) = encoder(images, mask_logits)
    close(embeddings, frozen(images, frozen.visible_patches(mask_logits)))
    assert torch.equal(masks, F.interpolate(mask_logits, (32, 32), mode="bilinear"))
    released = attention(layers=(0,))(images, mask_logits).embeddings
    assert (released - embeddings).abs().max() > 0.1


def test_what_begins_as_frozen_mask_class_tokens_can_learn(
    images: Tensor, mask_logits: Tensor
) -> None:
    encoder = attention(init="identity")
    embeddings, masks = encoder(images, mask_logits)
    (embeddings.square().sum() + masks[-1].sigmoid().sum()).backward()
    for name, parameter in added(encoder).items():
        begun_later = ".patches." in name  # once the norm's weight is no longer zero
        assert parameter.grad is not None
        assert parameter.grad.any() != begun_later, name


def test_the_seed_decides_the_random_beginning_and_process_state_does_not() -> None:
    state = torch.get_rng_state()
    first, again, other = (attention(seed=seed).tuned_tensors() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    weight = "relations.1.keys.weight"
    assert torch.equal(first[weight], again[weight])
    assert not torch.equal(first[weight], other[weight])


def test_three_layers_are_all_ends_of_quarters() -> None:
    assert RelativeMaskAttention(tiny_clip(layers=3)).layers == (0, 1, 2)


@pytest.mark.parametrize(
    ("layers", "message"),
    [((1, 4), "there is no layer 4; .* from 0 to 3"), ((), "there is none; .* from 0 to 3")],
)
def test_layers_that_the_tower_does_not_have_are_refused(
    layers: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"\[mask_encoder\] layers: {message}"):
        attention(layers=layers)


def test_tuned_tensors_carry_a_tuned_encoder_over(images: Tensor, mask_logits: Tensor) -> None:
    tuned, fresh = attention(seed=1), attention(seed=2)
    expected = tuned(images, mask_logits)
    fresh.load_tuned_tensors(tuned.tuned_tensors(), source="clip/rma")
    found = fresh(images, mask_logits)
    torch.testing.assert_close(found.embeddings, expected.embeddings)
    torch.testing.assert_close(found.mask_logits[-1], expected.mask_logits[-1])


@pytest.mark.parametrize("options", [{"layers": (1, 2)}, {"refine": False}], ids=str)
def test_tuned_tensors_of_other_layers_are_refused(options: dict[str, object]) -> None:
    other = attention(**options).tuned_tensors()
    with pytest.raises(CheckpointError, match="clip/rma: tuned for another CLIP or with other"):
        attention().load_tuned_tensors(other, source="clip/rma")


def test_a_recipe_needs_an_artifact_for_each_kind() -> None:
    section = {"name": "relative_mask_attention"}
    assert tuned_artifact(section) == "rma"
    assert tuned_artifact({**section, "refine": False}) == "rma-unrefined"


@pytest.mark.parametrize("refine", [True, False])
def test_an_image_and_its_proposals_are_encoded_as_in_training(
    images: Tensor, mask_logits: Tensor, refine: bool
) -> None:
    encoder = attention(refine=refine)
    frame = Frame((40, 56), (40, 56), (40, 56))
    proposals = Proposals(mask_logits[0], frame, torch.ones(5))
    encoded = encoder.encode(FramedImage(images[0], frame), proposals)
    expected, masks = encoder(images[:1], mask_logits[:1])
    close(encoded.embeddings, expected[0].detach())
    if refine:
        close(encoded.mask_logits, masks[-1][0].detach())
    else:
        assert encoded.mask_logits is proposals.mask_logits
    assert encoded.valid.all()
    assert not encoded.embeddings.requires_grad


@pytest.mark.parametrize(("padding", "red"), [("mean", 123.675), ("black", 0.0)])
def test_padding_gets_its_colour_and_the_caller_keeps_the_image(padding: str, red: float) -> None:
    pixels = F.pad(torch.full((3, 20, 30), 50.0), (0, 2, 0, 12))
    framed = FramedImage(pixels, Frame((32, 32), (20, 30), (20, 30)))
    before = pixels.clone()
    padded = attention(padding=padding).padded_image(framed)
    assert torch.equal(framed.pixels, before)
    assert padded[:, :20, :30].eq(50).all()
    assert padded[0, 20:].eq(red).all()
    assert padded[0, :, 30:].eq(red).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near_and_answers_in_float32(
    images: Tensor, mask_logits: Tensor, dtype: torch.dtype
) -> None:
    encoder = attention()
    expected = encoder(images, mask_logits)
    with torch.autocast("cpu", dtype=dtype):
        half = encoder(images, mask_logits)
        half.embeddings.square().sum().backward()
    assert half.embeddings.dtype == half.mask_logits[-1].dtype == torch.float32
    cosine = F.cosine_similarity(half.embeddings, expected.embeddings, dim=-1)
    assert cosine.min() > 0.98
    change = (half.mask_logits[-1] - expected.mask_logits[-1]).abs().mean()
    assert change < 0.02 * expected.mask_logits[-1].abs().mean()
