"""Dense features: the towers' own, at any size, frozen; pooling against slow and obvious code."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext, tiny_resnet
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.clip.dense import TOWERS, DenseClip, resampled
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip, build_small_convnext_clip
from ovseg_cli.errors import CheckpointError
from ovseg_cli.structures import Frame, FramedImage

import open_clip  # isort: skip
import timm.models.convnext  # isort: skip
from open_clip.model import _build_vision_tower  # isort: skip
from open_clip.modified_resnet import ModifiedResNet  # isort: skip

CLIPS = {"convnext": tiny_convnext(), "resnet": tiny_resnet(), "transformer": tiny_clip()}
everyone = pytest.mark.parametrize("kind", list(CLIPS))
SIZES = {"tiny": 96, "small": 96, "base": 128, "large": 192, "xlarge": 256, "xxlarge": 384}
WIDTHS = {"RN50": 256, "RN101": 256, "RN50x4": 320, "RN50x16": 384, "RN50x64": 512}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def an_image(height: int, width: int, resized: tuple[int, int] | None = None) -> FramedImage:
    inner = resized or (height, width)
    pixels = torch.zeros(3, height, width)
    pixels[:, : inner[0], : inner[1]] = noise(3, *inner).sigmoid() * 255
    return FramedImage(pixels, Frame((height, width), inner, inner))


@pytest.mark.parametrize("trainable", [False, True])
def test_a_convnexts_levels_are_timms(trainable: bool) -> None:
    clip, pixels = CLIPS["convnext"], noise(2, 3, 96, 160)
    expected = clip.model.visual.trunk.forward_intermediates(pixels, intermediates_only=True)
    found = DenseClip(clip, trainable=trainable).eval().levels(pixels)
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level, other)


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_a_convnext_on_more_cells_than_are_taken_at_once(conv_mlp: bool) -> None:
    clip = tiny_convnext()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip.model.visual.trunk = timm.models.convnext.ConvNeXt(
            num_classes=0, depths=(1, 1, 1, 1), dims=(4, 4, 4, 24), conv_mlp=conv_mlp
        ).eval()
    pixels = noise(1, 3, 160, 192)  # 1920 cells at stride 4
    expected = clip.model.visual.trunk.forward_intermediates(pixels, intermediates_only=True)
    for level, other in zip(DenseClip(clip).levels(pixels), expected, strict=True):
        torch.testing.assert_close(level, other)


def test_a_resnets_levels_are_open_clips() -> None:
    clip, pixels = CLIPS["resnet"], noise(2, 3, 96, 160)
    found = clip.model.visual.forward_intermediates(pixels, intermediates_only=True)
    expected = found["image_intermediates"][-4:]
    for level, other in zip(DenseClip(clip).levels(pixels), expected, strict=True):
        torch.testing.assert_close(level, other)


@pytest.mark.parametrize("built", ["plain", "small"])
def test_a_transformers_patches_are_open_clips(built: str) -> None:
    clip = CLIPS["transformer"] if built == "plain" else ClipEncoder(build_small_clip().eval())
    pixels = noise(2, 3, clip.resolution, clip.resolution)
    visual = clip.model.visual
    expected = visual.forward_intermediates(pixels)["image_intermediates"][-1]
    (found,) = DenseClip(clip).levels(pixels)
    torch.testing.assert_close(found, expected)


def test_a_transformers_positions_keep_their_place_at_another_size() -> None:
    """A position table that is linear in y and x stays so: bicubic, and cells at their centres."""
    clip = tiny_clip(layers=1)
    visual = clip.model.visual
    tower = DenseClip(clip).tower
    rows = torch.arange(4.0)[:, None].expand(4, 4).flatten()
    columns = torch.arange(4.0).repeat(4)
    with torch.no_grad():
        visual.positional_embedding[1:, 0], visual.positional_embedding[1:, 1] = rows, columns
    table = tower._positions((8, 12))
    assert table.shape == (97, visual.positional_embedding.shape[1])
    assert torch.equal(table[0], visual.positional_embedding[0])
    grid = table[1:].unflatten(0, (8, 12)).detach()
    inner_rows, inner_columns = grid[3:5, 0, 0], grid[0, 4:8, 1]
    close = {"atol": 0.05, "rtol": 0}  # the cubic kernel bends a straight line a little
    torch.testing.assert_close(inner_rows, torch.tensor([1.25, 1.75]), **close)
    torch.testing.assert_close(inner_columns, torch.tensor([1.0, 4 / 3, 5 / 3, 2.0]), **close)


@everyone
@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
@settings(max_examples=6, deadline=None)
def test_any_multiple_of_the_stride_is_taken(kind: str, rows: int, columns: int) -> None:
    dense = DenseClip(CLIPS[kind])
    levels = dense.levels(noise(1, 3, rows * dense.stride, columns * dense.stride))
    assert levels[-1].shape[-2:] == (rows, columns)
    assert [level.shape[1] for level in levels] == list(dense.tower.channels)


@pytest.mark.parametrize("name", [f"convnext_{size}" for size in SIZES] + list(WIDTHS))
def test_the_channels_of_open_clips_convolutional_towers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm.models.convnext, "_init_weights", lambda *_, **__: None)
    monkeypatch.setattr(ModifiedResNet, "init_parameters", lambda _: None)
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"])
    model = nn.Module()
    model.visual = visual
    dense = DenseClip(ClipEncoder(model))
    first = WIDTHS.get(name) or SIZES[name.removeprefix("convnext_")]
    assert dense.channels == (first, 2 * first, 4 * first, 8 * first)
    assert dense.tower.strides == (4, 8, 16, 32)


def test_every_convolutional_architecture_of_open_clip_is_of_a_kind_tested_above() -> None:
    names = [n for n in open_clip.list_models() if n.startswith(("RN", "convnext_"))]
    for name in names:
        stem = name.removesuffix("-quickgelu")
        assert stem in WIDTHS or stem.split("_")[1] in SIZES, name


def test_a_vision_transformer_is_no_backbone() -> None:
    dense = DenseClip(CLIPS["transformer"])
    with pytest.raises(CheckpointError, match="a backbone needs features at four strides"):
        _ = dense.channels


def test_a_tower_of_another_kind_is_refused() -> None:
    model = nn.Module()
    model.visual = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match="this image tower is a Linear of another kind"):
        DenseClip(ClipEncoder(model))


@everyone
def test_a_frozen_tower_stays_as_it_is_whatever_mode_its_owners_are_in(kind: str) -> None:
    clip = copy.deepcopy(CLIPS[kind])
    owner = nn.ModuleList([clip, DenseClip(clip)]).train()
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    pixels = noise(2, 3, 64, 64)
    expected = DenseClip(CLIPS[kind]).levels(pixels)
    levels = owner[1].levels(pixels)
    assert all(torch.equal(one, other) for one, other in zip(levels, expected, strict=True))
    assert not any(level.requires_grad for level in levels)
    assert not any(p.requires_grad for p in clip.model.visual.parameters())
    after = clip.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@everyone
def test_a_frozen_tower_is_no_weight_of_its_own_and_moves_along(kind: str) -> None:
    clip = copy.deepcopy(CLIPS[kind])
    dense = DenseClip(clip)
    assert not dense.state_dict()
    assert not list(dense.parameters())
    dense.double()
    assert all(p.dtype == torch.float64 for p in clip.model.visual.parameters())
    assert dense.levels(noise(1, 3, 64, 64).double())[-1].dtype == torch.float64


@everyone
def test_a_trainable_tower_is_a_copy_that_learns(kind: str) -> None:
    clip = CLIPS[kind]
    dense = DenseClip(clip, trainable=True).train()
    levels = dense.levels(noise(2, 3, 64, 64))
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    names = {name for name, p in dense.named_parameters() if p.grad is not None}
    assert names
    assert all(name.startswith("visual.") for name in dense.state_dict())
    assert not dense.visual.training  # batch statistics and dropped paths stay out
    assert dense.visual is dense.tower.visual
    assert all(p.grad is None for p in clip.parameters())
    twin = copy.deepcopy(dense)
    assert twin.tower.visual is twin.visual
    assert twin.visual is not dense.visual


@everyone
def test_an_image_is_encoded_once_unless_the_tower_learns(kind: str) -> None:
    framed = an_image(64, 96, resized=(50, 96))
    dense = DenseClip(CLIPS[kind])
    encoded = dense.encode(framed)
    given_along = FramedImage(framed.pixels, framed.frame, encoded)
    assert dense.encode(given_along) is encoded
    assert DenseClip(CLIPS[kind], trainable=True).encode(given_along) is not encoded


def test_padding_is_zero_after_normalising() -> None:
    clip = CLIPS["convnext"]
    framed = an_image(64, 96, resized=(50, 70))
    normalised = DenseClip(clip).normalise(framed)
    assert normalised[:, 50:].eq(0).all()
    assert normalised[:, :, 70:].eq(0).all()
    expected = (framed.pixels[:, :50, :70] / 255 - clip.mean) / clip.std
    torch.testing.assert_close(normalised[:, :50, :70], expected)


def test_an_image_padded_for_another_network_is_resampled_to_the_patches() -> None:
    clip = tiny_clip(resolution=28, patch=14)
    encoded = DenseClip(clip).encode(an_image(64, 96, resized=(50, 70)))
    assert encoded.levels[0].shape[1:] == (5, 7)  # 70 x 98 pixels


def test_resampling_covers_the_same_area() -> None:
    across = torch.arange(96.0).expand(3, 64, 96).clone()
    across[:, 48:], across[:, :, 72:] = 0, 0
    framed = FramedImage(across, Frame((64, 96), (48, 72), (48, 72)))
    twice = resampled(framed, 2.0, 32)
    assert twice.frame == Frame((128, 192), (96, 144), (48, 72))
    assert twice.pixels[:, 96:].eq(0).all()
    back = F.avg_pool2d(twice.pixels, 2)
    inner = (slice(None), slice(0, 48), slice(1, 71))
    torch.testing.assert_close(back[inner], framed.pixels[inner])
    least = resampled(framed, 0.01, 32)
    assert least.frame.padded == (32, 32)


@pytest.mark.parametrize("build", [tiny_convnext, build_small_convnext_clip])
def test_pooling_everything_is_a_convnexts_image_embedding(build) -> None:  # type: ignore[no-untyped-def]
    built = build()
    clip = built if isinstance(built, ClipEncoder) else ClipEncoder(built.eval())
    pixels = noise(2, 3, clip.resolution, clip.resolution)
    dense = DenseClip(clip)
    features = dense.levels(pixels)[-1]
    everything = torch.ones(2, 1, *features.shape[-2:], dtype=torch.bool)
    with torch.no_grad():
        expected = clip.model.encode_image(pixels)
        torch.testing.assert_close(dense.pool(features, everything)[:, 0], expected)


@pytest.mark.parametrize("size", [(2, 2), (3, 4), (1, 1)])
def test_attention_pooling_is_that_of_pytorch_with_the_mask_at_every_head(
    size: tuple[int, int],
) -> None:
    clip = CLIPS["resnet"]
    features = noise(2, 128, *size, seed=1)
    masks = noise(2, 5, *size, seed=2) > 0
    masks[:, 0], masks[:, 1] = True, False
    with torch.no_grad():
        found = DenseClip(clip).pool(features, masks)
        expected = slow_attention_pooling(clip.model.visual.attnpool, features, masks)
    seen = masks.flatten(2).any(2)
    torch.testing.assert_close(found[seen], expected[seen])
    bias = clip.model.visual.attnpool.c_proj.bias
    torch.testing.assert_close(found[~seen], bias.expand(int((~seen).sum()), -1))


def slow_attention_pooling(pool: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """One query a mask, all of them the same, by PyTorch's own attention."""
    batch, channels, height, width = features.shape
    count, side = masks.shape[1], int((len(pool.positional_embedding) - 1) ** 0.5)
    square = pool.positional_embedding[1:].reshape(side, side, channels).permute(2, 0, 1)
    resized = F.interpolate(square[None], (height, width), mode="bilinear", align_corners=False)
    cells = features.flatten(2).permute(2, 0, 1)  # (P, B, C)
    query = cells.mean(0, keepdim=True) + pool.positional_embedding[0]
    cells = cells + resized.flatten(2).permute(2, 0, 1)
    blocked = ~masks.flatten(2).repeat_interleave(pool.num_heads, dim=0)
    output, _ = F.multi_head_attention_forward(
        query=query.expand(count, batch, channels),
        key=cells,
        value=cells,
        embed_dim_to_check=channels,
        num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
        attn_mask=blocked.view(batch * pool.num_heads, count, height * width),
    )
    return output.transpose(0, 1)


def test_a_transformers_mask_is_the_mean_of_its_projected_patches() -> None:
    clip = CLIPS["transformer"]
    features, masks = noise(1, 32, 3, 4), noise(1, 5, 3, 4, seed=2) > 0
    masks[:, 0] = False
    with torch.no_grad():
        found = DenseClip(clip).pool(features, masks)[0]
        visual = clip.model.visual
        projected = visual.ln_post(features[0].flatten(1).T) @ visual.proj
    assert found[0].eq(0).all()
    for row, mask in list(zip(found, masks[0], strict=True))[1:]:
        torch.testing.assert_close(row, projected[mask.flatten()].mean(0))


@everyone
def test_weights_of_a_whole_are_a_mask_and_a_common_factor_changes_nothing(kind: str) -> None:
    dense = DenseClip(CLIPS[kind])
    features = noise(1, dense.tower.channels[-1], 2, 3)
    masks = noise(1, 4, 2, 3, seed=2) > 0
    masks[:, 0] = True
    with torch.no_grad():
        binary = dense.pool(features, masks)
        torch.testing.assert_close(dense.pool(features, masks.float()), binary)
        torch.testing.assert_close(dense.pool(features, 0.25 * masks), binary)


@everyone
def test_a_mask_sees_the_cells_inside_alone(kind: str) -> None:
    """The ResNet's query is the mean of all cells, so what changes must keep that mean."""
    dense = DenseClip(CLIPS[kind])
    features = noise(1, dense.tower.channels[-1], 2, 3)
    mask = torch.tensor([[True, False, True], [False, False, False]])[None, None]
    changed = features.clone()
    changed[:, :, 1] = features[:, :, 1].roll(1, dims=-1)  # its lower row, none of it inside
    with torch.no_grad():
        torch.testing.assert_close(dense.pool(changed, mask), dense.pool(features, mask))
        assert not torch.allclose(dense.pool(features.flip(2), mask), dense.pool(features, mask))


def test_no_two_kinds_of_tower_claim_the_same_one() -> None:
    for clip, pair in itertools.product(CLIPS.values(), itertools.combinations(TOWERS, 2)):
        assert not all(kind.fits(clip.model.visual) for kind in pair)
