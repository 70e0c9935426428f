import re

import pytest
import torch

from ovseg_cli.clip.encoder import ClipEncoder  # noqa: F401  (first: it makes torchvision importable)

from timm.models.swin_transformer import SwinTransformer  # isort: skip

from ovseg_cli.errors import RecipeError
from ovseg_cli.proposers.shifted_windows import SwinBlock
from ovseg_cli.proposers.swin import PatchMerging, Swin, swin

SIZES = {"depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": 2, "width": 4}


def small(**options: object) -> Swin:
    torch.manual_seed(0)
    model = Swin(**{**SIZES, **options}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # norms and position biases, too
    return model


def as_timm_names(name: str) -> str:
    table = {
        "attention_norm": "norm1",
        "feedforward_norm": "norm2",
        "attention.position_biases": "attn.relative_position_bias_table",
        "attention.qkv": "attn.qkv",
        "attention.output": "attn.proj",
        "feedforward.0": "mlp.fc1",
        "feedforward.2": "mlp.fc2",
        "merge.": "downsample.",
    }
    name = re.sub("^embed_norm", "patch_embed.norm", re.sub(r"^embed\.", "patch_embed.proj.", name))
    for stage in range(4):
        name = name.replace(f"layer{stage + 1}.", f"layers.{stage}.")
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def test_it_is_timms_where_windows_fit():
    """Two windows a side at the coarsest stage; timm has no norm on a stage's output."""
    model = small()
    timm = SwinTransformer(
        img_size=128,
        window_size=2,
        embed_dim=4,
        depths=SIZES["depths"],
        num_heads=SIZES["heads"],
        num_classes=0,
        always_partition=True,
    ).eval()
    state = {as_timm_names(k): v for k, v in model.state_dict().items()}
    stage_norms = {k for k in state if k.startswith("layers.") and k.split(".")[2] == "norm"}
    missing, surplus = timm.load_state_dict(state, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias"}
    assert set(surplus) == stage_norms
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        levels, tokens = model(images), timm.patch_embed(images)
        for stage, level in enumerate(levels):
            tokens = timm.layers[stage](tokens)
            normed = model.get_submodule(f"layer{stage + 1}").norm(tokens)
            torch.testing.assert_close(level, normed.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_a_window_of_the_whole_image_is_plain_attention():
    torch.manual_seed(0)
    block = SwinBlock(8, heads=2, window=4, shift=0, drop_path=0.0).eval()
    plain = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    plain.load_state_dict(
        {
            "in_proj_weight": block.attention.qkv.weight,
            "in_proj_bias": block.attention.qkv.bias,
            "out_proj.weight": block.attention.output.weight,
            "out_proj.bias": block.attention.output.bias,
        }
    )
    block.attention.position_biases.data.zero_()
    tokens = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        normed = block.attention_norm(tokens).flatten(1, 2)
        expected = tokens + plain(normed, normed, normed)[0].view(1, 4, 4, 8)
        expected = expected + block.feedforward(block.feedforward_norm(expected))
        torch.testing.assert_close(block(tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_shifted_window_joins_only_what_was_together():
    """5 x 5 tokens in windows of 4: a token sees the shifted window around it, and no other."""
    torch.manual_seed(0)
    block = SwinBlock(4, heads=1, window=4, shift=2, drop_path=0.0).eval()
    tokens = torch.randn(1, 5, 5, 4)
    changed = tokens.clone()
    changed[0, 4, 4, 0] += 1.0
    with torch.no_grad():
        moved = (block(tokens) - block(changed)).abs().sum(-1)[0] > 1e-6
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[2:, 2:] = True  # rows and columns 2 to 5 are a window after the shift by 2
    assert torch.equal(moved, expected)


def test_windows_that_do_not_fit_are_filled_with_zeros_after_the_norm():
    """A token alone in a window of four attends to three zeros, whose keys are the biases."""
    torch.manual_seed(0)
    block = SwinBlock(4, heads=1, window=2, shift=0, drop_path=0.0).eval()
    block.attention.position_biases.data.zero_()
    token = torch.randn(1, 1, 1, 4)
    with torch.no_grad():
        normed = block.attention_norm(token).view(1, 4)
        q, k, v = block.attention.qkv(torch.cat([normed, torch.zeros(3, 4)])).chunk(3, dim=1)
        attended = block.attention.output(((q[:1] @ k.T) / 2).softmax(-1) @ v)
        expected = token + attended.view(1, 1, 1, 4)
        expected = expected + block.feedforward(block.feedforward_norm(expected))
        torch.testing.assert_close(block(token), expected)


def test_neighbours_are_merged_column_by_column():
    merging = PatchMerging(1)
    merging.norm = torch.nn.Identity()
    merging.reduction = torch.nn.Identity()
    seen = merging(torch.arange(4.0).view(1, 2, 2, 1))
    assert seen.flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_any_multiple_of_32_gives_four_levels(size):
    levels = small(window=3)(torch.randn(1, 3, *size))
    for level, stride, channels in zip(levels, (4, 8, 16, 32), (4, 8, 16, 32), strict=True):
        assert level.shape == (1, channels, size[0] // stride, size[1] // stride)
        assert torch.isfinite(level).all()


def test_residuals_are_left_out_while_training_alone_and_more_of_them_later():
    model = small(drop_path=0.5)
    rates = [block.drop_path for block in model.modules() if isinstance(block, SwinBlock)]
    assert rates == pytest.approx([0.5 * index / 7 for index in range(8)])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images)[3], model(images)[3])
        model.train()
        assert any(not torch.equal(model(images)[3], model(images)[3]) for _ in range(5))


def test_left_out_residuals_keep_the_mean():
    torch.manual_seed(0)
    block = SwinBlock(4, heads=1, window=2, shift=0, drop_path=0.25).train()
    kept = block._kept(torch.ones(4000, 1, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_swin_base_has_the_papers_channels_and_parameters():
    """timm's Swin-B for 384 pixels, and a norm for each stage."""
    with torch.device("meta"):
        model = swin("swin_base")
        timm = SwinTransformer(
            img_size=384,
            window_size=12,
            embed_dim=128,
            depths=(2, 2, 18, 2),
            num_heads=(4, 8, 16, 32),
            num_classes=0,
        )
    assert model.channels == (128, 256, 512, 1024)
    stage_norms = 2 * (128 + 256 + 512)  # timm's one norm is that of the last stage
    count = sum(parameter.numel() for parameter in timm.parameters())
    assert sum(p.numel() for p in model.parameters()) == count + stage_norms


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(RecipeError, match=r"backbone_width: 100 is not a multiple of the 3 heads"):
        swin("swin_tiny", width=100)
