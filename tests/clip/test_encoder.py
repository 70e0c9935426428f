"""The CLIP encoder: preprocessing as published, words and images in the joint space."""

import pytest
import torch
from tiny_clip import tiny_clip
from tiny_towers import tiny_convnext, tiny_resnet
from torch.nn import functional as F

from ovseg_cli.clip.encoder import OPENAI_MEAN, OPENAI_STD
from ovseg_cli.clip.vision_transformer import image_layers
from ovseg_cli.errors import CheckpointError, VocabularyError
from ovseg_cli.mask_encoders.mask_class_tokens import MaskClassTokens
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.mask_encoders.relative_mask_attention import RelativeMaskAttention
from ovseg_cli.structures import Frame, FramedImage, Proposals

CONVOLUTIONAL = {"ConvNeXt": tiny_convnext, "ModifiedResNet": tiny_resnet}


def test_an_image_of_the_towers_size_is_only_normalised() -> None:
    image = torch.rand(1, 3, 32, 32) * 255
    mean, std = torch.tensor(OPENAI_MEAN), torch.tensor(OPENAI_STD)
    expected = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(tiny_clip().preprocess(image), expected, atol=1e-5, rtol=1e-5)


def test_any_image_is_squashed_to_the_square_without_clamping() -> None:
    image = torch.zeros(1, 3, 48, 70)
    image[..., 35:] = 255
    pixels = tiny_clip().preprocess(image)
    assert pixels.shape == (1, 3, 32, 32)
    white = (1 - torch.tensor(OPENAI_MEAN)) / torch.tensor(OPENAI_STD)
    assert (pixels.amax((0, 2, 3)) > white).all()


def test_batches_of_texts_change_nothing() -> None:
    clip = tiny_clip()
    texts = ["a dog", "beer", "a red circle", "zebra crossing", "naïve café"]
    torch.testing.assert_close(
        clip.encode_text(texts, batch_size=2), clip.encode_text(texts), atol=1e-5, rtol=1e-5
    )
    assert clip.encode_text(texts).shape == (5, 16)
    assert clip.encode_text([]).shape == (0, 16)


def test_texts_are_encoded_as_open_clip_does_it() -> None:
    clip = tiny_clip()
    expected = clip.model.encode_text(clip.tokenize(["a dog"]))
    torch.testing.assert_close(clip.encode_text(["a dog"]), expected.detach())
    assert not clip.encode_text(["a dog"]).requires_grad


def test_a_text_that_does_not_fit_is_refused_and_the_longest_that_fits_is_not() -> None:
    clip = tiny_clip()
    assert clip.tokenize(["dog " * 14]).shape == (1, 16)
    with pytest.raises(VocabularyError, match="longer than the 14 tokens"):
        clip.encode_text(["cat", "dog " * 15])


def test_batches_of_images_change_nothing() -> None:
    clip, images = tiny_clip(), torch.rand(5, 3, 40, 24) * 255
    torch.testing.assert_close(
        clip.encode_image(images, batch_size=2), clip.encode_image(images), atol=1e-5, rtol=1e-5
    )


def test_image_layers_are_what_open_clips_own_blocks_compute() -> None:
    clip = tiny_clip()
    visual, block = clip.visual, clip.visual.transformer.resblocks[-1]
    inputs: list[torch.Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    pixels = clip.preprocess(torch.rand(2, 3, 32, 32) * 255)
    visual(pixels)
    hook.remove()
    width = block.attn.embed_dim
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    expected = F.linear(block.ln_1(inputs[0]), weight[width:], bias[width:])
    *_, last = image_layers(visual, pixels)
    ours = torch.cat([part.transpose(1, 2).flatten(2) for part in (last.keys, last.values)], dim=-1)
    torch.testing.assert_close(ours, expected.detach(), atol=1e-5, rtol=1e-5)
    assert not ours.requires_grad


def test_the_encoder_leaves_the_models_gradients_alone() -> None:
    clip = tiny_clip()
    assert all(parameter.requires_grad for parameter in clip.model.parameters())
    assert clip.logit_scale == pytest.approx(clip.model.logit_scale.exp().item())
    assert (clip.resolution, clip.embedding_dim) == (32, 16)


@pytest.mark.parametrize("kind", list(CONVOLUTIONAL))
def test_a_convolutional_tower_encodes_whole_images_and_crops(kind: str) -> None:
    clip = CONVOLUTIONAL[kind]()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    assert (clip.resolution, clip.embedding_dim) == (64, 16)
    assert clip.logit_scale == pytest.approx(clip.model.logit_scale.exp().item())
    with torch.no_grad():
        expected = clip.model.encode_image(clip.preprocess(image[None]))
    torch.testing.assert_close(clip.encode_image(image[None]), expected)
    frame = Frame((64, 64), (64, 64), (64, 64))
    everything = Proposals(torch.ones(1, 16, 16), frame, torch.ones(1))
    encoded = MaskedCrops(clip).encode(FramedImage(image, frame), everything)
    torch.testing.assert_close(encoded.embeddings, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(CONVOLUTIONAL))
@pytest.mark.parametrize("encoder", [MaskClassTokens, RelativeMaskAttention])
def test_what_needs_a_vision_transformer_says_so(
    kind: str, encoder: type[MaskClassTokens] | type[RelativeMaskAttention]
) -> None:
    with pytest.raises(CheckpointError, match=f"this image tower is a {kind} of another kind"):
        encoder(CONVOLUTIONAL[kind]())
