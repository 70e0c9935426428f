import math
from dataclasses import replace

import pytest
import torch
from tiny_towers import tiny_convnext, tiny_resnet

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip

from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.proposers import PROPOSERS, ClipMask2Former, Proposer, TrainableProposer
from ovseg_cli.proposers.mask2former.clip_class_head import ClipClassHead, pooled_inside
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings

SMALL = {
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 4,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 16,
    "decoder_layers": 2,
    "feedforward_dim": 16,
}
TOWERS = pytest.mark.parametrize("clip_of", [tiny_convnext, tiny_resnet])


def small(clip: ClipEncoder, **options: object) -> ClipMask2Former:
    torch.manual_seed(0)
    return ClipMask2Former(clip=clip, **{**SMALL, **options}).eval()


def texts(classes: int = 3, dim: int = 16) -> TextEmbeddings:
    """Two synonyms for each class but the last."""
    class_of = torch.arange(2 * classes - 1) // 2
    generator = torch.Generator().manual_seed(4)
    return TextEmbeddings(torch.randn(len(class_of), dim, generator=generator), class_of)


def framed(image: torch.Tensor, padded: tuple[int, int]) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    pixels = image.new_zeros(3, *padded)
    pixels[:, : size[0], : size[1]] = image
    return FramedImage(pixels, Frame(padded=padded, resized=size, original=size))


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("convnext_large_d_320", 20_721_601),
        ("RN50-quickgelu", 21_033_409),
        ("RN101-quickgelu", 20_901_313),
        ("RN50x4-quickgelu", 21_180_097),
        ("RN50x16-quickgelu", 21_458_881),
        ("RN50x64-quickgelu", 22_016_449),
    ],
)
def test_as_many_parameters_learn_as_in_the_released_models(architecture, count):
    """Published: 20,721,601 and 21.03, 20.90, 21.18, 21.46, 22.02 million."""
    config = open_clip.get_model_config(architecture)
    config["text_cfg"].update(layers=1)
    with torch.device("meta"):
        model = ClipMask2Former(clip=ClipEncoder(open_clip.CLIP(**config)))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_a_mask_of_everything_pools_the_mean_and_an_empty_one_zero():
    features = torch.randn(1, 4, 3, 5)
    masks = torch.stack([torch.ones(3, 5), -torch.ones(3, 5), torch.zeros(3, 5)])[None]
    pooled = pooled_inside(features, masks)
    torch.testing.assert_close(pooled[0, 0], features[0].mean((1, 2)))
    assert (pooled[0, 1:] == 0).all()


def test_what_the_class_head_pools_is_the_mean_inside_the_mask():
    features = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    masks = torch.tensor([[[[3.0, -1.0], [0.1, 0.0]]]])
    assert pooled_inside(features, masks).item() == pytest.approx(2.5)


def test_the_class_heads_gradient_flows_to_features_and_queries_but_not_through_the_masks():
    torch.manual_seed(0)
    head = ClipClassHead(hidden_dim=8, mask_dim=4, embedding_dim=6)
    queries = torch.randn(1, 2, 8, requires_grad=True)
    features = torch.randn(1, 4, 3, 3, requires_grad=True)
    masks = torch.randn(1, 2, 3, 3, requires_grad=True)
    head(queries, masks, features).sum().backward()
    assert masks.grad is None
    assert queries.grad.abs().sum() > 0
    outside = (masks <= 0).all(1).squeeze(0)
    assert (features.grad[0, :, outside] == 0).all()
    assert (features.grad[0, :, ~outside] != 0).any()


def test_the_temperature_begins_at_seven_hundredths_and_is_bounded():
    head = ClipClassHead(hidden_dim=8, mask_dim=4, embedding_dim=6)
    assert head.scale().item() == pytest.approx(1 / 0.07)
    head.logit_scale.data.fill_(9.0)
    assert head.scale().item() == 100


@TOWERS
def test_a_proposal_a_query_with_its_embedding(clip_of):
    model = small(clip_of())
    proposals = model.propose(framed(torch.rand(3, 50, 70) * 255, (64, 96)))
    assert isinstance(model, Proposer)
    assert isinstance(model, TrainableProposer)
    assert proposals.mask_logits.shape == (5, 16, 24)
    assert proposals.scores.tolist() == [1.0] * 5
    assert proposals.embeddings.shape == (5, 16)
    assert torch.equal(proposals.no_object, model.void_embedding.weight[0])
    assert proposals.logit_scale == pytest.approx(1 / 0.07)


def test_training_and_proposing_see_the_same_image():
    model, words = small(tiny_convnext()), texts()
    image = torch.rand(3, 64, 96) * 255
    with torch.no_grad():
        final = model(image[None], words)[-1]
    (batched,) = model.propose_batch(image[None])
    for proposals in (model.propose(framed(image, (64, 96))), batched):
        assert torch.allclose(proposals.mask_logits, final.mask_logits[0], atol=1e-4)
        with torch.no_grad():
            logits = model.class_logits(proposals.embeddings, words)
        assert torch.allclose(logits, final.classes[0], atol=1e-3)


def test_class_logits_are_scaled_cosines_with_the_best_synonym_and_void_last():
    model, words = small(tiny_convnext()), texts()
    embeddings = torch.randn(7, 16)
    with torch.no_grad():
        found = model.class_logits(embeddings, words)
    rows = torch.cat([words.embeddings, model.void_embedding.weight.detach()])
    cosines = torch.cosine_similarity(embeddings[:, None], rows[None], dim=-1) / 0.07
    columns = [cosines[:, 0:2].amax(1), cosines[:, 2:4].amax(1), cosines[:, 4], cosines[:, 5]]
    torch.testing.assert_close(found, torch.stack(columns, 1), atol=1e-4, rtol=1e-4)


def test_the_levels_that_an_image_carries_are_read_and_not_computed_again():
    model = small(tiny_convnext())
    image = framed(torch.rand(3, 64, 64) * 255, (64, 64))
    with_levels = replace(image, encoded=model.dense.encode(image))
    model.dense.levels = None  # would fail
    again = model.propose(with_levels)
    del model.dense.levels
    assert torch.equal(again.embeddings, model.propose(image).embeddings)


def test_what_is_in_the_padding_does_not_matter():
    model = small(tiny_convnext())
    image = framed(torch.rand(3, 50, 70) * 255, (64, 96))
    noisy = image.pixels.clone()
    noisy[:, 50:] = 255
    same = model.propose(FramedImage(noisy, image.frame))
    assert torch.equal(same.embeddings, model.propose(image).embeddings)


@TOWERS
@pytest.mark.parametrize("trainable", [False, True])
def test_the_towers_weights_are_the_models_own_only_if_they_learn(clip_of, trainable):
    clip = clip_of()
    model = small(clip, trainable_clip=trainable).train()
    names = {name for name in model.state_dict() if name.startswith("dense.")}
    assert bool(names) == trainable
    assert any(name.startswith("dense.visual.") for name in names) == trainable
    sum(
        masks.sum() + classes[..., 0].sum()
        for classes, masks in model(torch.rand(1, 3, 64, 64) * 255, texts())
    ).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    assert not clip.model.visual.training
    again = small(clip, trainable_clip=trainable)
    again.load_state_dict(model.state_dict())


def test_a_trainable_tower_is_a_copy():
    clip = tiny_convnext()
    model = small(clip, trainable_clip=True)
    next(model.dense.visual.parameters()).data.zero_()
    assert next(clip.model.visual.parameters()).any()


def test_under_autocast_class_logits_are_in_float32():
    model = small(tiny_convnext())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        final = model(torch.rand(1, 3, 64, 64) * 255, texts())[-1]
    assert final.classes.dtype == torch.float32


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match="hidden_dim: 48"):
        PROPOSERS["clip_mask2former"](clip=tiny_convnext(), **{**SMALL, "hidden_dim": 48})
    with pytest.raises(ValueError, match="multiples of 32"):
        small(tiny_convnext())(torch.zeros(1, 3, 60, 64), texts())


def test_a_clip_without_four_levels_is_refused():
    from tiny_clip import tiny_clip

    with pytest.raises(CheckpointError, match="four strides"):
        small(tiny_clip())


def test_the_void_embedding_and_norms_are_not_decayed_but_the_temperature_is():
    from ovseg_cli.training.optimizer import adamw

    model = small(tiny_convnext())
    groups = adamw(model, lr=1.0, weight_decay=0.05).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(decay) == len(learned)
    undecayed = {name for name, p in learned.items() if decay[id(p)] == 0}
    assert "void_embedding.weight" in undecayed
    assert {"mask_decoder.norm.weight", "mask_decoder.query_features.weight"} <= undecayed
    assert not {"mask_decoder.class_head.logit_scale", "pixel_decoder.level_embeddings"} & undecayed
    assert math.isclose(decay[id(model.mask_decoder.class_head.logit_scale)], 0.05)
