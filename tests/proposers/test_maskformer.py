import pytest
import torch
from tiny_towers import tiny_convnext
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip

from ovseg_cli.errors import RecipeError
from ovseg_cli.proposers import PROPOSERS, MaskFormer, Proposer, TrainableProposer
from ovseg_cli.proposers.maskformer.pixel_decoder import PixelDecoder
from ovseg_cli.proposers.maskformer.query_decoder import QueryDecoder
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings

SMALL = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "trained_stages": 5,
    "hidden_dim": 32,
    "mask_dim": 16,
    "embedding_hidden_dim": 24,
    "queries": 5,
    "heads": 4,
    "decoder_layers": 2,
    "feedforward_dim": 16,
}


def small(clip: ClipEncoder | None = None, **options: object) -> MaskFormer:
    torch.manual_seed(0)
    return MaskFormer(clip=clip or tiny_convnext(), **{**SMALL, **options}).eval()


def texts(classes: int = 3, dim: int = 16) -> TextEmbeddings:
    """Two texts for each class but the last."""
    class_of = torch.arange(2 * classes - 1) // 2
    generator = torch.Generator().manual_seed(4)
    return TextEmbeddings(torch.randn(len(class_of), dim, generator=generator), class_of)


def framed(image: torch.Tensor, padded: tuple[int, int]) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    pixels = image.new_zeros(3, *padded)
    pixels[:, : size[0], : size[1]] = image
    return FramedImage(pixels, Frame(padded=padded, resized=size, original=size))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("channels", "embedding_dim", "pixels", "queries"),
    [
        ((128, 256, 512, 1024), 768, 4_951_808, 11_008_768),
        ((256, 512, 1024, 2048), 512, 7_540_480, 11_008_512),
    ],
    ids=["swin_base and ViT-L/14", "resnet101c and ViT-B/16"],
)
def test_as_many_parameters_as_in_the_released_models(channels, embedding_dim, pixels, queries):
    with torch.device("meta"):
        assert count(PixelDecoder(channels)) == pixels
        assert count(QueryDecoder(channels[-1], embedding_dim=embedding_dim)) == queries


@pytest.mark.parametrize(
    ("architecture", "options", "heads", "frozen"),
    [
        ("ViT-L-14-quickgelu", {}, 4_951_808 + 11_008_768, set()),
        (
            "ViT-B-16-quickgelu",
            {"backbone": "resnet101c", "trained_stages": 3},
            7_540_480 + 11_008_512,
            {"conv1", "conv2", "conv3", "layer1"},
        ),
    ],
    ids=["swin_base", "resnet101c"],
)
def test_the_released_models(architecture, options, heads, frozen):
    config = open_clip.get_model_config(architecture)
    config["text_cfg"].update(layers=1)
    config["vision_cfg"].update(layers=1)
    with torch.device("meta"):
        model = MaskFormer(clip=ClipEncoder(open_clip.CLIP(**config)), **options)
    assert count(model.pixel_decoder) + count(model.query_decoder) == heads
    parameters = model.backbone.named_parameters()
    assert {n.split(".")[0] for n, p in parameters if not p.requires_grad} == frozen


def test_a_swin_below_it_proposes_and_learns():
    model = small(backbone="swin_tiny", backbone_width=12).train()
    layers = model(torch.rand(1, 3, 64, 96) * 255, texts())
    sum(layer.mask_logits.square().sum() for layer in layers).backward()
    assert model.backbone.embed.weight.grad.abs().sum() > 0
    frozen = small(backbone="swin_tiny", backbone_width=12, trained_stages=3)
    parameters = frozen.backbone.named_parameters()
    kept = {n.split(".")[0] for n, p in parameters if not p.requires_grad}
    assert kept == {"embed", "embed_norm", "layer1"}


def test_a_proposal_a_query_with_its_embedding():
    model = small()
    proposals = model.propose(framed(torch.rand(3, 50, 70) * 255, (64, 96)))
    assert isinstance(model, Proposer)
    assert isinstance(model, TrainableProposer)
    assert proposals.mask_logits.shape == (5, 16, 24)
    assert proposals.scores.tolist() == [1.0] * 5
    assert proposals.embeddings.shape == (5, 16)
    assert torch.equal(proposals.no_object, model.no_object.weight[0])
    assert proposals.logit_scale == 100


def test_training_and_proposing_see_the_same_image():
    model, words = small(), texts()
    image = torch.rand(3, 64, 96) * 255
    with torch.no_grad():
        layers = model(image[None], words)
    proposals = model.propose(framed(image, (64, 96)))
    assert len(layers) == SMALL["decoder_layers"]  # the learned queries alone predict nothing
    torch.testing.assert_close(proposals.mask_logits, layers[-1].mask_logits[0])
    logits = model.class_logits(proposals.embeddings[None], words)
    torch.testing.assert_close(logits, layers[-1].classes)


def test_a_batch_gives_the_proposals_of_its_images():
    model, images = small(), torch.rand(2, 3, 64, 64) * 255
    for image, proposals in zip(images, model.propose_batch(images), strict=True):
        alone = model.propose(framed(image, (64, 64)))
        torch.testing.assert_close(proposals.mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(proposals.embeddings, alone.embeddings, atol=1e-4, rtol=1e-4)


def test_logits_are_cosines_times_a_hundred_with_no_object_last():
    model, words = small(), texts()
    embeddings = torch.stack([model.no_object.weight[0] * 7, words.embeddings[-1] * 0.1])[None]
    logits = model.class_logits(embeddings, words)
    assert logits.shape == (1, 2, 4)
    assert logits[0, 0, 3].item() == pytest.approx(100, abs=1e-3)
    assert logits[0, 1, 2].item() == pytest.approx(100, abs=1e-3)  # a class of one text
    mean = F.normalize(words.embeddings[:2].mean(0), dim=0)
    expected = 100 * F.normalize(embeddings[0, 1], dim=0) @ mean
    assert logits[0, 1, 0].item() == pytest.approx(expected.item(), abs=1e-3)


def test_what_lies_in_the_padding_does_not_matter():
    model, image = small(), torch.rand(3, 50, 70) * 255
    clean, dirty = framed(image, (64, 96)), framed(image, (64, 96))
    dirty.pixels[:, 50:] = 255
    assert torch.equal(model.propose(clean).mask_logits, model.propose(dirty).mask_logits)


def test_queries_read_where_things_are():
    """Positions are part of the keys: a picture turned round is another picture to the queries."""
    model, image = small(), torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        levels = model.backbone(image)[-1]
        one, other = (model.query_decoder(level) for level in (levels, levels.flip(-1)))
    assert not torch.allclose(one.embeddings, other.embeddings, atol=1e-4)


def test_dropout_is_for_training_alone():
    model, image = small(), torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(model.decoded(image)[0].classes, model.decoded(image)[0].classes)
        model.train()
        one, other = model.decoded(image)[0], model.decoded(image)[0]
        assert not torch.equal(one.classes, other.classes)
        still = small(dropout=0.0).train()
        assert torch.equal(still.decoded(image)[0].classes, still.decoded(image)[0].classes)


def test_no_part_of_the_clip_is_in_the_state_and_everything_of_ours_learns():
    model = small()
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "backbone",
        "pixel_decoder",
        "query_decoder",
        "no_object",
    }
    predictions = model(torch.rand(1, 3, 64, 64) * 255, texts())
    sum(p.classes.square().sum() + p.mask_logits.square().sum() for p in predictions).backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    queries_are_zero = "query_decoder.layers.0.self_"  # until the biases have moved, as in DETR
    assert all(name.startswith(queries_are_zero) for name in idle)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match=r"hidden_dim: 48 is not a multiple of 32"):
        small(hidden_dim=48)


def test_recipes_find_it():
    assert PROPOSERS["maskformer"] is MaskFormer
