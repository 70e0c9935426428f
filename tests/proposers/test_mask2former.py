import pytest
import torch
from plain import mask2former as plain

from ovseg_cli.checkpoints.imagenet import load_backbone
from ovseg_cli.checkpoints.mask2former import mask2former_weights
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.proposers import PROPOSERS, Mask2Former, Proposer, TrainableProposer
from ovseg_cli.proposers.mask2former.mask_decoder import _allowed
from ovseg_cli.proposers.resnet import freeze, resnet
from ovseg_cli.structures import Frame, FramedImage

SMALL = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 4,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 16,
    "decoder_layers": 4,
    "feedforward_dim": 16,
}


@pytest.fixture
def model() -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(**SMALL).eval()


def framed(image: torch.Tensor, padded: tuple[int, int]) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    pixels = image.new_zeros(3, *padded)
    pixels[:, : size[0], : size[1]] = image
    return FramedImage(pixels, Frame(padded=padded, resized=size, original=size))


def test_it_agrees_with_the_plain_model_layer_by_layer(model):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = model.predictions(images, every_layer=True)
        expected = plain.predictions(model, images)
    assert len(found) == len(expected) == 5
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours.classes, theirs[0], atol=1e-4)
        assert torch.allclose(ours.mask_logits, theirs[1], atol=1e-4)


def test_a_proposal_a_query_at_stride_four_with_scores_between_0_and_1(model):
    proposals = model.propose(framed(torch.rand(3, 50, 70) * 255, (64, 96)))
    assert isinstance(model, Proposer)
    assert proposals.mask_logits.shape == (5, 16, 24)
    assert ((proposals.scores > 0) & (proposals.scores < 1)).all()


def test_training_and_proposing_see_the_same_image(model):
    image = torch.rand(3, 64, 96) * 255
    with torch.no_grad():
        final = model(image.unsqueeze(0))[-1]
    proposals = model.propose(framed(image, (64, 96)))
    assert torch.allclose(proposals.mask_logits, final.mask_logits[0], atol=1e-4)


def test_a_batch_gives_what_its_images_give_alone(model):
    images = torch.rand(2, 3, 64, 96) * 255
    together = model.propose_batch(images)
    assert isinstance(model, TrainableProposer)
    assert len(together) == 2
    for image, found in zip(images, together, strict=True):
        alone = model.propose(framed(image, (64, 96)))
        assert found.frame == alone.frame
        assert torch.allclose(found.mask_logits, alone.mask_logits, atol=1e-4)
        assert torch.allclose(found.scores, alone.scores, atol=1e-5)
        assert not found.mask_logits.requires_grad


def test_what_is_in_the_padding_does_not_matter(model):
    image = framed(torch.rand(3, 50, 70) * 255, (64, 96))
    noisy = image.pixels.clone()
    noisy[:, 50:] = 255
    noisy[:, :, 70:] = 7
    same = model.propose(FramedImage(noisy, image.frame))
    assert torch.equal(same.mask_logits, model.propose(image).mask_logits)


def test_an_empty_mask_attends_everywhere():
    allowed = _allowed(torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[2.0, -3.0, 0.0]]]))
    assert allowed.tolist() == [[[True, False, True], [False, True, True]]]
    nowhere = _allowed(torch.tensor([[[-1.0]]]), torch.tensor([[[2.0, 3.0]]]))
    assert nowhere.tolist() == [[[True, True]]]


def test_every_parameter_learns(model):
    predictions = model(torch.rand(1, 3, 64, 64) * 255)
    sum(masks.sum() + classes[..., 0].sum() for classes, masks in predictions).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_the_papers_model_has_the_released_number_of_parameters():
    with torch.device("meta"):
        model = Mask2Former()
    count = {
        part: sum(parameter.numel() for parameter in getattr(model, part).parameters())
        for part in ("backbone", "pixel_decoder", "mask_decoder")
    }
    assert count["backbone"] == 23_454_912
    assert count["pixel_decoder"] + count["mask_decoder"] == 20_495_042


def test_under_autocast_the_pixel_decoder_stays_in_float32(model):
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.backbone(image)
        pixels = model.pixel_decoder(features)
        final = model.mask_decoder(pixels)[-1]
    assert features[0].dtype == torch.bfloat16
    assert {pixels.mask_features.dtype, *(level.dtype for level in pixels.levels)} == {
        torch.float32
    }
    with torch.no_grad():
        expected = model.predictions(image)[-1]
    scale = expected.mask_logits.abs().max()
    assert (final.mask_logits - expected.mask_logits).abs().mean() < 0.05 * scale


def test_a_size_that_is_no_multiple_of_32_is_refused(model):
    with pytest.raises(ValueError, match="multiples of 32"):
        model(torch.zeros(1, 3, 60, 64))


def test_a_hidden_dim_that_does_not_fit_is_a_recipe_error():
    with pytest.raises(RecipeError, match="hidden_dim: 48"):
        PROPOSERS["mask2former"](**{**SMALL, "hidden_dim": 48})


def test_torchvisions_names_and_outputs():
    from ovseg_cli import torchvision_ops  # noqa: F401, I001
    import torchvision

    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = resnet("resnet50")
    names = ours.state_dict().keys()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in names})
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for name, found in zip(("layer1", "layer2", "layer3", "layer4"), ours(image), strict=True):
            features = getattr(theirs, name)(features)
            assert torch.allclose(found, features, atol=1e-5 * float(features.max()))


def test_deeplabs_resnet_agrees_with_the_plain_one_layer_by_layer():
    torch.manual_seed(0)
    ours = resnet("resnet26c", width=8, norm="group").eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain.backbone_features(ours, image)
        for found, features in zip(ours(image), expected, strict=True):
            assert torch.allclose(found, features, atol=1e-4)


def test_deeplabs_resnet_has_three_stem_convolutions_and_dilated_last_blocks_at_stride_32():
    with torch.device("meta"):
        ours, plain_stem = resnet("resnet101c"), resnet("resnet101")
        sizes = [level.shape[1:] for level in ours(torch.empty(1, 3, 64, 96))]
    assert sizes == [(256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]
    stem = [ours.conv1, ours.conv2, ours.conv3]
    assert [(c.out_channels, c.stride[0], c.bias) for c in stem] == [
        (64, 2, None),
        (64, 1, None),
        (128, 1, None),
    ]
    assert [block.conv2.dilation[0] for block in ours.layer4] == [1, 2, 4]
    assert {block.conv2.dilation[0] for block in ours.layer3} == {1}
    count, count_plain = (
        sum(parameter.numel() for parameter in model.parameters()) for model in (ours, plain_stem)
    )
    stems = 9 * (3 * 64 + 64 * 64 + 64 * 128) - 49 * 3 * 64
    assert count - count_plain == stems + 64 * (64 + 256)  # 64 channels more enter the first block


def test_freezing_two_stages_keeps_the_whole_stem_and_the_first_layer():
    backbone = resnet("resnet26c", width=8, norm="group")
    freeze(backbone, 2)
    kept = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert kept == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1"}


def test_backbone_weights_come_from_a_file_of_torchvisions_layout(tmp_path):
    torch.manual_seed(1)
    source = resnet("resnet18")
    tensors = {**source.state_dict(), "fc.weight": torch.zeros(1000, 512)}
    tensors["bn1.num_batches_tracked"] = torch.tensor(5)
    torch.save(tensors, tmp_path / "resnet18.pth")
    target = resnet("resnet18")
    load_backbone(target, str(tmp_path / "resnet18.pth"), architecture="resnet18")
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    deeper = resnet("resnet50")
    with pytest.raises(CheckpointError, match=r"resnet18.pth: weights of another model.*layer1.0"):
        load_backbone(deeper, str(tmp_path / "resnet18.pth"), architecture="resnet50")
    with pytest.raises(CheckpointError, match=r"missing.pth: cannot be read"):
        load_backbone(target, str(tmp_path / "missing.pth"), architecture="resnet18")


def test_no_imagenet_weights_for_a_backbone_that_has_none():
    with pytest.raises(CheckpointError, match=r"resnet10.*backbone_weights=none"):
        load_backbone(resnet("resnet10"), "imagenet", architecture="resnet10")


def test_without_a_network_the_message_says_what_to_do(monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.*set train_proposals"):
        load_backbone(resnet("resnet50"), "imagenet", architecture="resnet50")


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("backbone.stem.conv1.weight", "backbone.conv1.weight"),
        ("backbone.stem.conv1.norm.running_var", "backbone.bn1.running_var"),
        ("backbone.stem.conv3.weight", "backbone.conv3.weight"),
        ("backbone.stem.conv3.norm.bias", "backbone.bn3.bias"),
        ("backbone.res2.0.shortcut.weight", "backbone.layer1.0.downsample.0.weight"),
        ("backbone.res5.2.conv3.norm.bias", "backbone.layer4.2.bn3.bias"),
        ("sem_seg_head.predictor.static_query.weight", "mask_decoder.query_features.weight"),
        ("sem_seg_head.input_proj.0.1.weight", "pixel_decoder.projections.0.1.weight"),
        ("sem_seg_head.pixel_decoder.layer_1.norm.bias", "pixel_decoder.smooth.1.bias"),
    ],
)
def test_released_names_become_ours(released, ours):
    assert list(mask2former_weights({released: torch.zeros(1)})) == [ours]


def test_what_is_no_part_of_the_model_is_left_out():
    assert mask2former_weights({"criterion.empty_weight": torch.zeros(2)}) == {}


def test_all_released_names_of_a_whole_model_find_their_place():
    with torch.device("meta"):
        names = Mask2Former().state_dict().keys()
    from_released = mask2former_weights({name: torch.zeros(0) for name in released_names()})
    assert sorted(from_released) == sorted(names)


def released_names() -> list[str]:
    norm = ("weight", "bias", "running_mean", "running_var")
    affine = ("weight", "bias")
    names = ["backbone.stem.conv1.weight", *(f"backbone.stem.conv1.norm.{n}" for n in norm)]
    for stage, depth in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for block in range(depth):
            for part in ("conv1", "conv2", "conv3", *(["shortcut"] if not block else [])):
                prefix = f"backbone.res{stage}.{block}.{part}"
                names += [f"{prefix}.weight", *(f"{prefix}.norm.{n}" for n in norm)]
    head = "sem_seg_head.pixel_decoder."
    for level in range(3):
        names += [f"{head}input_proj.{level}.{i}.{n}" for i in (0, 1) for n in affine]
    names.append(f"{head}transformer.level_embed")
    projections = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    for layer in range(6):
        prefix = f"{head}transformer.encoder.layers.{layer}"
        parts = [*(f"self_attn.{p}" for p in projections), "norm1", "norm2", "linear1", "linear2"]
        names += [f"{prefix}.{part}.{n}" for part in parts for n in affine]
    for part in ("adapter_1", "layer_1"):
        names += [f"{head}{part}.weight", *(f"{head}{part}.norm.{n}" for n in affine)]
    names += [f"{head}mask_features.{n}" for n in affine]
    head = "sem_seg_head.predictor."
    for layer in range(9):
        for kind, inner in (("self", "self_attn"), ("cross", "multihead_attn")):
            prefix = f"{head}transformer_{kind}_attention_layers.{layer}"
            names += [f"{prefix}.{inner}.in_proj_{n}" for n in affine]
            names += [f"{prefix}.{inner}.out_proj.{n}" for n in affine]
            names += [f"{prefix}.norm.{n}" for n in affine]
        prefix = f"{head}transformer_ffn_layers.{layer}"
        names += [f"{prefix}.{part}.{n}" for part in ("linear1", "linear2", "norm") for n in affine]
    names += [f"{head}{part}.{n}" for part in ("decoder_norm", "class_embed") for n in affine]
    names += [f"{head}mask_embed.layers.{i}.{n}" for i in range(3) for n in affine]
    return names + [f"{head}{part}.weight" for part in ("query_feat", "query_embed", "level_embed")]
