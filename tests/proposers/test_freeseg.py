import pytest
import torch
from plain import freeseg as plain
from tiny_clip import tiny_clip

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip

from ovseg_cli.errors import RecipeError
from ovseg_cli.losses.full_masks import FullMaskCriterion
from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.proposers import Proposer, ReadsWords, TrainableProposer
from ovseg_cli.proposers.freeseg import FreeSeg
from ovseg_cli.proposers.freeseg.text_interaction import TextInteraction
from ovseg_cli.proposers.mask2former.pixel_decoder import DecodedPixels
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings

SMALL = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "hidden_dim": 32,
    "embedding_hidden_dim": 24,
    "queries": 5,
    "heads": 4,
    "interaction_dim": 16,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 16,
    "decoder_layers": 2,
    "feedforward_dim": 16,
}
DIM = 16


def small(**options: object) -> FreeSeg:
    torch.manual_seed(0)
    return FreeSeg(clip=tiny_clip(), **{**SMALL, **options}).eval()


def texts(classes: int = 3, *, seed: int = 4) -> TextEmbeddings:
    """Two synonyms for each class but the last."""
    class_of = torch.arange(2 * classes - 1) // 2
    generator = torch.Generator().manual_seed(seed)
    return TextEmbeddings(torch.randn(len(class_of), DIM, generator=generator), class_of)


def framed(image: torch.Tensor, padded: tuple[int, int]) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    pixels = image.new_zeros(3, *padded)
    pixels[:, : size[0], : size[1]] = image
    return FramedImage(pixels, Frame(padded=padded, resized=size, original=size))


def test_the_released_model_has_the_published_number_of_parameters():
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    config["text_cfg"].update(layers=1)
    config["vision_cfg"].update(layers=1)
    with torch.device("meta"):
        model = FreeSeg(clip=ClipEncoder(open_clip.CLIP(**config)))
    count = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in model.named_children()
    }
    assert count["pixel_decoder"] == 6_035_904
    assert count["interaction"] == 3_153_920
    head = 256 * 1024 + 1024 + 1024 * 512 + 512
    assert sum(p.numel() for p in model.mask_decoder.class_head.parameters()) == head
    assert model.no_object.weight.shape == (1, 512)


def interaction(**options: object) -> TextInteraction:
    torch.manual_seed(0)
    module = TextInteraction(hidden_dim=8, embedding_dim=6, heads=2, inner_dim=12, **options).eval()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return module


def pixels(channels: int = 8) -> DecodedPixels:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, channels, n, n + 1, generator=generator) for n in (1, 2, 4, 8)]
    return DecodedPixels(maps[3], tuple(maps[:3]))


def test_pixels_read_words_as_the_plain_formula_says():
    module, words = interaction(), torch.randn(4, 6)
    found = module(pixels(), module.memory(words))
    expected = plain.read(module, [*pixels().levels, pixels().mask_features], words)
    for ours, theirs in zip((*found.levels, found.mask_features), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_words_are_normed_once_more_for_each_further_map():
    module = interaction()
    keys = module.memory(torch.randn(4, 6)).keys
    assert not torch.allclose(keys[0], keys[1], atol=1e-3)


def test_with_nothing_read_the_pixels_come_out_normed():
    module = interaction()
    module.scale.data.zero_()
    found = module(pixels(), module.memory(torch.randn(4, 6))).mask_features
    expected = module.pixel_norm(pixels().mask_features.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(found, expected)


def test_the_order_of_the_words_does_not_matter_to_the_pixels():
    module, words = interaction(), torch.randn(4, 6)
    ahead, back = (module(pixels(), module.memory(w)) for w in (words, words.flip(0)))
    torch.testing.assert_close(ahead.mask_features, back.mask_features)


def test_attention_is_dropped_in_training_alone():
    module = interaction(dropout=0.5)
    memory = module.memory(torch.randn(4, 6))
    assert torch.equal(*(module(pixels(), memory).mask_features for _ in range(2)))
    module.train()
    first, second = (module(pixels(), memory).mask_features for _ in range(2))
    assert not torch.equal(first, second)


def test_it_is_a_proposer_once_it_is_given_words():
    model = small()
    assert isinstance(model, ReadsWords)
    assert not isinstance(model, Proposer)
    proposer = model.with_words(texts())
    assert isinstance(proposer, TrainableProposer)
    proposals = proposer.propose(framed(torch.rand(3, 50, 70) * 255, (64, 96)))
    assert proposals.mask_logits.shape == (5, 16, 24)
    assert proposals.embeddings.shape == (5, DIM)
    assert proposals.logit_scale == 100
    assert not proposals.mask_logits.requires_grad


def test_what_is_proposed_depends_on_the_vocabulary():
    model, image = small(), framed(torch.rand(3, 64, 96) * 255, (64, 96))
    model.interaction.scale.data.fill_(1.0)
    first, same, other = (
        model.with_words(words).propose(image) for words in (texts(), texts(), texts(seed=5))
    )
    assert torch.equal(first.mask_logits, same.mask_logits)
    assert not torch.allclose(first.mask_logits, other.mask_logits, atol=1e-3)
    assert not torch.allclose(first.embeddings, other.embeddings, atol=1e-3)


def test_a_background_is_no_word_to_read():
    model = small()
    with_background = TextEmbeddings(
        torch.cat([texts().embeddings, torch.randn(1, DIM)]),
        torch.cat([texts().class_of, torch.tensor([3])]),
        has_background=True,
    )
    assert torch.equal(model.words(with_background), model.words(texts()))
    assert model.words(texts()).norm(dim=-1).tolist() == pytest.approx([1.0] * 4)


def test_training_and_proposing_see_the_same_image():
    model, image = small(), torch.rand(3, 64, 96) * 255
    with torch.no_grad():
        layers = model(image[None], texts())
    final = layers[-1]
    assert len(layers) == SMALL["decoder_layers"] + 1
    proposals = model.with_words(texts()).propose(framed(image, (64, 96)))
    torch.testing.assert_close(proposals.mask_logits, final.mask_logits[0], atol=1e-4, rtol=1e-4)
    cosines = torch.nn.functional.cosine_similarity(
        proposals.embeddings[:, None], model.words(texts())[None], dim=-1
    )
    torch.testing.assert_close(final.classes[0], 100 * cosines, atol=1e-3, rtol=1e-4)


def test_a_batch_gives_what_its_images_give_alone():
    proposer, images = small().with_words(texts()), torch.rand(2, 3, 64, 96) * 255
    for image, found in zip(images, proposer.propose_batch(images), strict=True):
        alone = proposer.propose(framed(image, (64, 96)))
        torch.testing.assert_close(found.mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.embeddings, alone.embeddings, atol=1e-4, rtol=1e-4)


def test_what_is_in_the_padding_does_not_matter():
    proposer, image = small().with_words(texts()), framed(torch.rand(3, 50, 70) * 255, (64, 96))
    noisy = image.pixels.clone()
    noisy[:, 50:] = 255
    same = proposer.propose(FramedImage(noisy, image.frame))
    assert torch.equal(same.mask_logits, proposer.propose(image).mask_logits)


def test_every_parameter_learns():
    model = small()
    predictions = model(torch.rand(1, 3, 64, 64) * 255, texts())
    sum(masks.sum() + classes[..., 0].sum() for classes, masks in predictions).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_heads_must_share_the_width():
    with pytest.raises(RecipeError, match="hidden_dim: 48 is not a multiple of 32"):
        small(hidden_dim=48)
    with pytest.raises(RecipeError, match="interaction_dim: 18 is not a multiple of heads"):
        small(interaction_dim=18)


def test_it_learns_the_masks_and_classes_of_two_scenes():
    torch.manual_seed(0)
    model = small(dropout=0.0, decoder_layers=1, queries=3).train()
    images = torch.zeros(2, 3, 32, 32)
    inside = torch.zeros(2, 1, 32, 32)
    inside[0, :, :, :16], inside[1, :, 16:] = 1, 1
    images[0, 0], images[1, 2] = 255 * inside[0, 0], 255 * inside[1, 0]
    targets = [
        MaskTargets(masks, torch.tensor([label]), label) for label, masks in enumerate(inside)
    ]
    criterion = FullMaskCriterion(dice_weight=5.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = last = None
    for step in range(25):
        losses = criterion(model(images, texts(2)), targets, seed=0, step=step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = sum(float(loss.detach()) for loss in losses.values())
        first = first or last
    assert last < 0.3 * first
    final = model.eval()(images, texts(2))[-1]
    for image in range(2):
        best = final.classes[image].softmax(-1)[:, image].argmax()
        assert final.classes[image, best].argmax() == image
        found = torch.nn.functional.interpolate(
            final.mask_logits[image, best][None, None], (32, 32), mode="bilinear"
        )
        agreement = ((found[0, 0] > 0) == (inside[image, 0] > 0.5)).float().mean()
        assert agreement > 0.85
