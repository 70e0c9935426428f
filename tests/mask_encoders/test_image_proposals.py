"""Image proposals: the identities that hold whatever the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from benchmarks.mask_class_tokens import gmac
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.maft import PlainImageProposals
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext, tiny_resnet
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.structures import Frame, FramedImage, Proposals

import open_clip  # isort: skip

CLIP, RESNET = tiny_clip(), tiny_resnet()
CLIPS = pytest.mark.parametrize("clip", [CLIP, RESNET], ids=["transformer", "resnet"])
FRAME = Frame(padded=(64, 96), resized=(50, 80), original=(100, 160))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def images(side: int, count: int = 2) -> Tensor:
    return random(count, 3, side, side, seed=1) * 255


def encoder(clip: Any = CLIP, **options: Any) -> ImageProposals:
    return ImageProposals(clip, **{"start_layer": 1, "input_size": None, **options})


def framed() -> FramedImage:
    pixels = torch.zeros(3, *FRAME.padded)
    pixels[:, :50, :80] = random(3, 50, 80) * 255
    return FramedImage(pixels, FRAME)


def some_logits() -> Tensor:
    """Five masks at stride 4: empty, full, and three of blobs."""
    coarse = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(2))
    logits = F.interpolate(4 * coarse, (16, 24), mode="bilinear")[:, 0]
    logits[0], logits[1] = -1, 1
    return logits


def proposals(mask_logits: Tensor) -> Proposals:
    return Proposals(mask_logits, FRAME, torch.ones(len(mask_logits)))


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 7),
    batch=st.integers(1, 3),
    start=st.integers(0, 2),
    side=st.integers(8, 60),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_it_is_the_sequence_of_all_tokens(
    count: int, batch: int, start: int, side: int, size: tuple[int, int], threshold: float
) -> None:
    """Of every shape, what the released arithmetic gives; the peer needs a mask."""
    ours = encoder(start_layer=start, input_size=side, threshold=threshold)
    masks = random(batch, count, *size, seed=3)
    with torch.no_grad():
        of_masks, of_images = ours(images(side, batch), masks)
    assert of_masks.shape == (batch, count, 16)
    plain = PlainImageProposals(ours)
    with torch.no_grad():
        if count:
            expected = plain.encode(images(side, batch), masks)
            torch.testing.assert_close(of_masks, expected, atol=1e-4, rtol=1e-4)
        expected = plain.encode(images(side, batch), None)[:, 0]
    torch.testing.assert_close(of_images, expected, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_sequence_of_all_tokens() -> None:
    ours = encoder(tiny_clip().double(), tuned="maft", input_size=48)
    given_images, masks = images(48).double(), random(2, 4, 12, 9, seed=3).double()
    masks[:, 0] = 0
    wanted = [p for p in ours.visual.parameters() if p.requires_grad]
    found = []
    for module in (ours, PlainImageProposals(ours)):
        of_masks, of_images = module(given_images, masks)
        loss = of_masks.sin().sum() + of_images.cos().sum()
        found.append(torch.autograd.grad(loss, wanted))
    assert len(wanted) == len(list(ours.visual.parameters()))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)
        assert own.any()


@CLIPS
def test_the_whole_image_is_what_clip_makes_of_it(clip: Any) -> None:
    ours, given_images = encoder(clip), images(clip.resolution)
    expected = clip.model.visual((given_images / 255 - clip.mean) / clip.std)
    with torch.no_grad():
        _, of_images = ours(given_images, random(2, 1, 4, 4))
    torch.testing.assert_close(of_images, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.teacher(given_images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("clip", "start"), [(CLIP, 2), (RESNET, 0)], ids=["last", "resnet"])
def test_a_full_mask_is_the_whole_image_where_patches_are_only_read(clip: Any, start: int) -> None:
    """In a transformer that is the last layer; before it patches differ, for want of the token."""
    masks = torch.ones(2, 1, 4, 4)
    with torch.no_grad():
        of_masks, of_images = encoder(clip, start_layer=start)(images(clip.resolution), masks)
        torch.testing.assert_close(of_masks[:, 0], of_images, atol=1e-5, rtol=1e-5)
        of_masks, of_images = encoder(start_layer=1)(images(32), masks)
    assert not torch.allclose(of_masks[:, 0], of_images, atol=1e-3)


@CLIPS
def test_masks_do_not_see_one_another(clip: Any) -> None:
    """And any number of them will do."""
    ours, masks = encoder(clip), random(2, 6, 9, 9)
    given_images = images(clip.resolution)
    with torch.no_grad():
        together = ours.mask_embeddings(given_images, masks)
        alone = [ours.mask_embeddings(given_images, masks[:, [i]]) for i in (5, 2, 0)]
        none = ours.mask_embeddings(given_images, masks[:, :0])
    expected = together[:, [5, 2, 0]]
    torch.testing.assert_close(torch.cat(alone, 1), expected, atol=1e-5, rtol=1e-5)
    assert none.shape == (2, 0, 16)


def test_a_mask_that_sees_nothing_is_its_token_alone() -> None:
    """From the first layer on, then, the same whatever the image."""
    with torch.no_grad():
        found = encoder(start_layer=0).mask_embeddings(images(32), torch.zeros(2, 1, 4, 4))
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("layers", [1, 3])
def test_one_layer_sees_what_is_inside_and_more_layers_what_that_has_seen(layers: int) -> None:
    ours = encoder(tiny_clip(layers=layers), start_layer=0)
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, :2, :3] = 1
    first, second = images(32), images(32)
    second[:, :, 16:] = 0
    second[:, :, :, 24:] = 0
    with torch.no_grad():
        embeddings = [ours.mask_embeddings(given, masks) for given in (first, second)]
    assert torch.allclose(*embeddings, atol=1e-5) == (layers == 1)


def test_a_resnets_masks_are_its_own_attention_with_a_mask() -> None:
    """Beside PyTorch's attention, the mean a key that all masks see."""
    ours, visual = encoder(RESNET), RESNET.model.visual
    masks = random(1, 4, 2, 2)
    masks[:, 0] = 0
    given_images = images(64, 1)
    pixels = (given_images / 255 - RESNET.mean) / RESNET.std
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    cells = features.flatten(2)[0].T
    pool = visual.attnpool
    tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + pool.positional_embedding
    seen = F.pad(ours.visible_patches(masks)[0], (1, 0), value=True)
    heads = [
        project(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(0, 1)
        for project in (pool.q_proj, pool.k_proj, pool.v_proj)
    ]
    queries = heads[0][:, :1].expand(-1, 4, -1)
    attended = F.scaled_dot_product_attention(queries, *heads[1:], attn_mask=seen)
    expected = pool.c_proj(attended.transpose(0, 1).flatten(1))
    found = ours.mask_embeddings(given_images, masks)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.isfinite().all()


@pytest.mark.parametrize("side", [32, 48, 63, 65, 80, 96, 130])
def test_a_resnet_takes_images_of_any_size(side: int) -> None:
    ours = encoder(RESNET, input_size=side)
    of_masks, of_images = ours(images(side), random(2, 3, 5, 7))
    assert of_masks.isfinite().all()
    assert of_images.shape == (2, 16)


@settings(max_examples=30, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    padded=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    count=st.integers(0, 3),
    side=st.integers(8, 80),
    corners=st.booleans(),
)
def test_probabilities_on_the_grid_are_those_of_all_pixels(
    cells: tuple[int, int], padded: tuple[int, int], count: int, side: int, corners: bool
) -> None:
    ours = encoder(input_size=side)
    logits = torch.randn(count, *cells, generator=torch.Generator().manual_seed(0))
    found = ours.mask_probabilities(logits, Frame(padded, padded, padded, corners))
    assert found.shape == (count, ours.grid, ours.grid)
    if count:
        pixels = F.interpolate(logits[None], padded, mode="bilinear", align_corners=corners)
        expected = F.interpolate(pixels.sigmoid(), (ours.grid, ours.grid), mode="bilinear")[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_image_is_squashed_after_it_is_padded_with_what_normalises_to_zero() -> None:
    ours, given_image = encoder(input_size=40), framed()
    before = given_image.pixels.clone()
    normalised = torch.zeros(3, *FRAME.padded)
    inner = given_image.pixels[:, :50, :80] / 255
    normalised[:, :50, :80] = (inner - CLIP.mean) / CLIP.std
    expected = F.interpolate(normalised[None], (40, 40), mode="bilinear")[0]
    found = (ours.squashed(given_image) / 255 - CLIP.mean) / CLIP.std
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(given_image.pixels, before)


@CLIPS
@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_proposals_of_an_image_are_encoded_in_their_order(clip: Any, count: int) -> None:
    ours, logits = encoder(clip), some_logits()[:count]
    found = ours.encode(framed(), proposals(logits))
    assert found.mask_logits is logits
    masks = ours.mask_probabilities(logits, FRAME)[None]
    expected = ours.mask_embeddings(ours.squashed(framed())[None], masks)[0]
    assert torch.equal(found.embeddings, expected)
    assert found.valid.all()
    assert not found.embeddings.requires_grad


def test_empty_masks_count_unless_told_otherwise() -> None:
    given_masks = proposals(some_logits())
    assert encoder().encode(framed(), given_masks).valid.tolist() == [True] * 5
    found = encoder(keep_empty=False).encode(framed(), given_masks)
    assert found.valid.tolist() == [False, True, True, True, True]


@CLIPS
def test_what_is_tuned_is_a_second_tower_and_the_first_its_teacher(clip: Any) -> None:
    ours = encoder(clip, tuned="maft").train()
    given_images, masks = images(clip.resolution), random(2, 3, 5, 7)
    before = ours.teacher(given_images)
    of_masks, of_images = ours(given_images, masks)
    torch.testing.assert_close(of_images, before)  # a tower begins as CLIP's
    (of_masks.square().sum() + of_images.sum()).backward()
    assert not any(p.requires_grad or p.grad is not None for p in ours.clip.parameters())
    with torch.no_grad():
        for parameter in ours.visual.parameters():
            parameter -= 1e-3 * parameter.grad
    assert torch.equal(ours.teacher(given_images), before)
    other = encoder(clip, tuned="maft")
    other.load_tuned_tensors(ours.tuned_tensors(), source="clip/maft")
    changed = other(given_images, masks)
    assert torch.equal(changed[0], ours(given_images, masks)[0])
    assert not torch.allclose(changed[0], of_masks)
    frozen = encoder(clip)
    assert frozen.tuned_tensors() == {}
    with pytest.raises(CheckpointError, match="clip/maft: tuned for another CLIP"):
        frozen.load_tuned_tensors(ours.tuned_tensors(), source="clip/maft")


def test_a_resnets_statistics_stay_clips_while_it_is_tuned() -> None:
    ours = encoder(tiny_resnet(), tuned="maft").train()
    before = {name: value.clone() for name, value in ours.visual.named_buffers()}
    ours(images(64), random(2, 3, 5, 7))
    for name, value in ours.visual.named_buffers():
        assert torch.equal(value, before[name])


def test_half_precision_gives_float_embeddings_close_to_those_of_full() -> None:
    masks = random(2, 3, 5, 7)
    expected, _ = encoder()(images(32), masks)
    found, whole = encoder(tiny_clip().bfloat16())(images(32), masks)
    assert found.dtype == whole.dtype == torch.float32
    assert F.cosine_similarity(found, expected, dim=-1).min() > 0.99


def test_autocast_does_not_change_what_masks_see() -> None:
    logits = some_logits()
    expected = encoder().mask_probabilities(logits, FRAME)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder().mask_probabilities(logits, FRAME), expected)
        embeddings = encoder().encode(framed(), proposals(logits)).embeddings
    full = encoder().encode(framed(), proposals(logits)).embeddings
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, full, atol=0.05, rtol=0.05)


def test_nothing_grows_with_the_square_of_masks_and_patches() -> None:
    masks = random(1, 400, 4, 4)
    with torch.no_grad(), largest_tensor() as found:
        encoder().mask_embeddings(images(32, 1), masks)
    assert 0 < found[0] < (400 + 16) ** 2 / 2
    with torch.no_grad(), largest_tensor() as found:
        PlainImageProposals(encoder()).encode(images(32, 1), masks)
    assert found[0] >= (400 + 16) ** 2


@contextmanager
def largest_tensor() -> Iterator[list[int]]:
    """The most values of a tensor that an operation gives."""
    found = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                found[0] = max(found[0], math.prod(result.shape))
            return result

    with Watch():
        yield found


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"start_layer: .* 3 layers.* set it to 2 or less"):
        encoder(start_layer=3)
    with pytest.raises(RecipeError, match="input_size: 7 pixels"):
        encoder(input_size=7)
    with pytest.raises(CheckpointError, match="ConvNeXt of another kind"):
        encoder(tiny_convnext())


def test_the_peer_that_benchmarks_divide_by_costs_what_the_released_code_does() -> None:
    """192.0 GFLOP for ViT-B/16 at 480 with 100 masks, measured there; counted without weights."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    config["text_cfg"]["layers"] = 1
    with torch.device("meta"):
        clip = ClipEncoder(open_clip.CLIP(**config).eval())
        given_images, masks = torch.empty(1, 3, 480, 480), torch.empty(1, 100, 30, 30)
    ours = ImageProposals(clip)
    with torch.no_grad():
        peers = 2 * gmac(lambda: PlainImageProposals(ours).encode(given_images, masks))
        own = 2 * gmac(lambda: ours.mask_embeddings(given_images, masks))
    assert peers == pytest.approx(192.0, rel=1e-3)
    assert own < 0.93 * peers
