"""Mask pooling: what CLIP's dense features say of each mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext, tiny_resnet
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.errors import CheckpointError
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals

CLIPS = {"convnext": tiny_convnext(), "resnet": tiny_resnet(), "transformer": tiny_clip()}
FRAME = Frame(padded=(64, 96), resized=(52, 90), original=(104, 180))
everyone = pytest.mark.parametrize("kind", list(CLIPS))


@pytest.fixture
def framed() -> FramedImage:
    pixels = torch.zeros(3, 64, 96)
    pixels[:, :52, :90] = torch.rand(3, 52, 90, generator=torch.Generator().manual_seed(1)) * 255
    return FramedImage(pixels, FRAME)


def proposals(logits: Tensor, frame: Frame = FRAME) -> Proposals:
    return Proposals(logits, frame, torch.ones(len(logits)))


def some_logits(count: int = 6) -> Tensor:
    """Noise at stride 4, the first mask empty, the second full."""
    noise = torch.randn(count, 16, 24, generator=torch.Generator().manual_seed(2))
    noise[0], noise[1] = -3.0, 3.0
    return noise


def encoded(kind: str, framed: FramedImage, logits: Tensor, **options: Any) -> EncodedMasks:
    return MaskPooling(CLIPS[kind], **options).encode(framed, proposals(logits, framed.frame))


@pytest.mark.parametrize("binary", [True, False])
def test_a_full_mask_of_a_whole_image_is_a_convnexts_own_embedding(binary: bool) -> None:
    clip = CLIPS["convnext"]
    side = clip.resolution
    pixels = torch.rand(3, side, side, generator=torch.Generator().manual_seed(3)) * 255
    frame = Frame((side, side), (side, side), (side, side))
    found = encoded("convnext", FramedImage(pixels, frame), torch.ones(1, 8, 8), binary=binary)
    torch.testing.assert_close(found.embeddings, clip.encode_image(pixels[None]))


@everyone
@pytest.mark.parametrize("binary", [True, False])
def test_an_empty_mask_is_finite_invalid_and_the_same_in_every_image(
    kind: str, binary: bool, framed: FramedImage
) -> None:
    found = encoded(kind, framed, some_logits(), binary=binary)
    other = replace(framed, pixels=framed.pixels.flip(2))
    assert found.embeddings.isfinite().all()
    assert found.valid.tolist() == [False, True, True, True, True, True]
    again = encoded(kind, other, some_logits(), binary=binary).embeddings
    assert torch.equal(found.embeddings[0], again[0])
    assert not torch.allclose(found.embeddings[1], again[1])


@everyone
@pytest.mark.parametrize("binary", [True, False])
def test_a_mask_is_encoded_the_same_beside_any_others(
    kind: str, binary: bool, framed: FramedImage
) -> None:
    logits = some_logits()
    together = encoded(kind, framed, logits, binary=binary)
    alone = encoded(kind, framed, logits[4:5], binary=binary)
    torch.testing.assert_close(together.embeddings[4:5], alone.embeddings)
    assert encoded(kind, framed, logits[:0], binary=binary).embeddings.shape[0] == 0


def test_a_binary_mask_is_resized_bilinearly_and_cut_at_zero(framed: FramedImage) -> None:
    encoder, logits = MaskPooling(CLIPS["convnext"]), some_logits()
    expected = F.interpolate(logits[None], (2, 3), mode="bilinear", align_corners=False)[0] > 0
    assert torch.equal(encoder.weights(logits, (2, 3)), expected)


def test_area_weights_are_the_share_of_a_cell_that_is_inside() -> None:
    logits = torch.full((1, 16, 24), -1.0)
    logits[0, :8, :6], logits[0, 15, 23] = 1.0, 1.0
    weights = MaskPooling(CLIPS["convnext"], binary=False).weights(logits, (2, 3))
    assert weights[0].tolist() == [[0.75, 0, 0], [0, 0, 1 / 64]]


def test_a_mask_smaller_than_a_cell_is_lost_when_binary_and_kept_by_area(
    framed: FramedImage,
) -> None:
    logits = torch.full((1, 16, 24), -4.0)
    logits[0, 1, 1] = 4.0
    assert not encoded("convnext", framed, logits).valid.any()
    cell = torch.full((1, 16, 24), -4.0)
    cell[0, :8, :8] = 4.0  # the whole of the cell in which it lies
    by_area = encoded("convnext", framed, logits, binary=False)
    assert by_area.valid.all()
    expected = encoded("convnext", framed, cell).embeddings
    torch.testing.assert_close(by_area.embeddings, expected, atol=1e-4, rtol=1e-4)


@everyone
def test_the_image_tower_is_not_run_again_where_its_levels_are_given(
    kind: str, framed: FramedImage
) -> None:
    encoder = MaskPooling(CLIPS[kind])
    assert encoder.dense is not None
    given = replace(framed, encoded=encoder.dense.encode(framed))
    plain = encoder.encode(framed, proposals(some_logits()))
    encoder.dense.levels = None  # type: ignore[assignment,method-assign]
    again = encoder.encode(given, proposals(some_logits()))
    assert torch.equal(plain.embeddings, again.embeddings)


@everyone
def test_the_framings_own_size_as_input_size_changes_nothing(
    kind: str, framed: FramedImage
) -> None:
    plain = encoded(kind, framed, some_logits()).embeddings
    same = encoded(kind, framed, some_logits(), input_size=min(FRAME.resized)).embeddings
    torch.testing.assert_close(plain, same)


@everyone
def test_another_input_size_makes_a_pass_of_its_own(kind: str, framed: FramedImage) -> None:
    encoder = MaskPooling(CLIPS[kind], input_size=104)
    assert encoder.dense is None
    shared = replace(framed, encoded=MaskPooling(CLIPS[kind]).reader.encode(framed))
    first = encoder.encode(framed, proposals(some_logits())).embeddings
    assert torch.equal(first, encoder.encode(shared, proposals(some_logits())).embeddings)
    assert not torch.allclose(first, encoded(kind, framed, some_logits()).embeddings, atol=1e-3)


def test_the_proposers_tower_is_a_copy_that_takes_its_weights(framed: FramedImage) -> None:
    clip = tiny_convnext()
    encoder = MaskPooling(clip, tower="proposals")
    assert encoder.dense is None
    before = encoder.encode(framed, proposals(some_logits())).embeddings
    own = MaskPooling(clip).encode(framed, proposals(some_logits())).embeddings
    torch.testing.assert_close(before, own)
    trained = tiny_convnext(seed=5)
    tensors = {f"visual.{name}": v for name, v in trained.model.visual.state_dict().items()}
    encoder.load_tower(tensors, source="proposals/teacher")
    after = encoder.encode(framed, proposals(some_logits())).embeddings
    theirs = MaskPooling(trained).encode(framed, proposals(some_logits())).embeddings
    torch.testing.assert_close(after, theirs)
    again = MaskPooling(clip).encode(framed, proposals(some_logits())).embeddings
    assert torch.equal(own, again)  # the CLIP keeps its own
    with pytest.raises(CheckpointError, match="proposals/teacher: weights of another model"):
        encoder.load_tower({"visual.x": torch.ones(1)}, source="proposals/teacher")


@everyone
def test_half_precision_leaves_embeddings_in_float32(kind: str, framed: FramedImage) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = encoded(kind, framed, some_logits())
    plain = encoded(kind, framed, some_logits())
    assert found.embeddings.dtype == torch.float32
    similar = F.cosine_similarity(found.embeddings, plain.embeddings)[1:]
    assert (similar > 0.99).all()


def test_it_has_no_weights_of_its_own_and_stays_in_evaluation_mode() -> None:
    encoder = MaskPooling(CLIPS["resnet"])
    assert not encoder.state_dict()
    assert not list(encoder.parameters())
    assert not encoder.train().reader.training
