"""The parts of a case of FC-CLIP, with the weights coming in through the importer."""

from typing import Any

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from plain.fcclip import SMALLEST, Settings, Words
from timm.layers.mlp import Mlp
from timm.models.convnext import ConvNeXt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.fcclip import import_fcclip
from ovseg_cli.classification import Classification
from ovseg_cli.clip.loading import load_weights
from ovseg_cli.inference import (
    InferenceOptions,
    instances,
    segment,
    semantic_scores,
)
from ovseg_cli.proposers.mask2former.clip_model import ClipMask2Former
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings
from ovseg_cli.upsampling import upsample

STRIDE = 4  # of mask logits
TEXT = CLIPTextCfg(context_length=8, vocab_size=16, width=8, heads=2, layers=1)


def released_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A case's weights as they are in a released file."""
    return {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }


def clip_and_proposer(
    tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> tuple[ClipEncoder, ClipMask2Former]:
    """Both halves of a whole model, through the importer."""
    weights = import_fcclip(released_state(tensors), source="the case")
    clip = clip_of(weights.clip, metadata)
    head = weights.proposer
    offsets = len(head["pixel_decoder.layers.0.attention.offsets.bias"])
    queries, hidden_dim = head["mask_decoder.query_features.weight"].shape
    model = ClipMask2Former(
        clip=clip,
        hidden_dim=hidden_dim,
        mask_dim=len(head["pixel_decoder.mask_features.bias"]),
        queries=queries,
        heads=metadata["heads"],
        encoder_layers=_count(head, "pixel_decoder.layers."),
        encoder_feedforward_dim=len(head["pixel_decoder.layers.0.feedforward.0.bias"]),
        sampling_points=offsets // (2 * 3 * metadata["heads"]),
        decoder_layers=_count(head, "mask_decoder.layers."),
        feedforward_dim=len(head["mask_decoder.layers.0.feedforward.0.bias"]),
    )
    load_weights(model, head, source="the case")
    return clip, model.eval().requires_grad_(False)


def clip_of(weights: dict[str, Tensor], metadata: dict[str, Any]) -> ClipEncoder:
    """An open_clip model with the image tower and the temperature of `weights`, of their sizes.

    A case of classification alone has nothing of the tower but its head; the rest is then random.
    """
    tower = {
        name.removeprefix("visual."): tensor
        for name, tensor in weights.items()
        if name.startswith("visual.")
    }
    model = _resnet(tower) if "attnpool.c_proj.weight" in tower else _convnext(tower, metadata)
    whole = {**model.visual.state_dict(), **tower} if _head_alone(tower) else tower
    load_weights(model.visual, whole, source="the case")
    model.logit_scale.data = weights["logit_scale"].clone()
    mean, std = (
        tuple(value / 255 for value in metadata[name]) for name in ("pixel_mean", "pixel_std")
    )
    return ClipEncoder(model.eval().requires_grad_(False), mean=mean, std=std)


def _head_alone(tower: dict[str, Tensor]) -> bool:
    return "trunk.stem.0.weight" not in tower and "conv1.weight" not in tower


def _convnext(tower: dict[str, Tensor], metadata: dict[str, Any]) -> open_clip.CLIP:
    hidden, channels = tower["head.mlp.fc1.weight"].shape
    dim = len(tower["head.mlp.fc2.weight"])
    vision = CLIPVisionCfg(
        timm_model_name="convnext_atto", timm_pool="", timm_proj="mlp", image_size=32
    )
    model = open_clip.CLIP(dim, vision, TEXT)
    scaled = _head_alone(tower) or any(name.endswith("gamma") for name in tower)
    model.visual.trunk = ConvNeXt(
        num_classes=0, **metadata["convnext"], ls_init_value=1.0 if scaled else None
    )
    model.visual.head.mlp = Mlp(channels, hidden, dim, bias=(True, False))
    return model


def _resnet(tower: dict[str, Tensor]) -> open_clip.CLIP:
    positions, channels = tower["attnpool.positional_embedding"].shape
    vision = CLIPVisionCfg(
        layers=tuple(_count(tower, f"layer{stage}.") for stage in (1, 2, 3, 4)),
        width=channels // 32,
        image_size=32 * round((positions - 1) ** 0.5),
    )
    return open_clip.CLIP(len(tower["attnpool.c_proj.weight"]), vision, TEXT)


def _count(names: dict[str, Tensor], prefix: str) -> int:
    found = [int(name.removeprefix(prefix).split(".")[0]) for name in names if prefix in name]
    return max(found, default=0) + 1


def texts_of(tensors: dict[str, Tensor]) -> TextEmbeddings:
    """The rows of the case, one a synonym."""
    counts = tensors["input.num_templates"].long()
    class_of = torch.arange(len(counts)).repeat_interleave(counts)
    return TextEmbeddings(tensors["input.text_classifier"], class_of)


def seen_of(tensors: dict[str, Tensor]) -> Tensor:
    """Which classes share a name with the training vocabulary."""
    return tensors["input.category_overlapping_mask"] > 0.5


def things_of(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Tensor:
    """Which classes are things."""
    things = torch.zeros(len(tensors["input.num_templates"]), dtype=torch.bool)
    things[metadata["thing_classes"]] = True
    return things


def framed_images(
    tensors: dict[str, Tensor], metadata: dict[str, Any], masks: Tensor
) -> list[FramedImage]:
    """The images of a batch, each in the frame that all share: masks (B, Q, h, w) cover it."""
    padded = (STRIDE * masks.shape[-2], STRIDE * masks.shape[-1])
    framed = []
    for index, original in enumerate(metadata["out_sizes"]):
        image = tensors[f"input.image_{index}"]
        height, width = image.shape[1:]
        pixels = F.pad(image, (0, padded[1] - width, 0, padded[0] - height))
        frame = Frame(padded, (height, width), (original[0], original[1]))
        framed.append(FramedImage(pixels, frame))
    return framed


def classification_of(metadata: dict[str, Any], clip: ClipEncoder) -> Classification:
    """The released ensemble with the case's weights."""
    classification = Classification(
        scale="clip",
        background=None,
        synonyms="max",
        object_score=False,
        ensemble="geometric",
        alpha=metadata["alpha"],
        beta=metadata["beta"],
        ensemble_on_valid=bool(metadata["valid"]),
    )
    return classification.with_scale_of(clip.logit_scale)


def inference_of(metadata: dict[str, Any]) -> InferenceOptions:
    """The released thresholds of the case."""
    return InferenceOptions(
        object_threshold=metadata["omt"],
        overlap_threshold=metadata["ovt"],
        reject_background=True,
        top_k=metadata["topk"],
    )


def plain_words(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Words:
    """The case's vocabulary as the plain peer takes it."""
    counts = tuple(int(count) for count in tensors["input.num_templates"])
    rows = tensors["input.text_classifier"]
    return Words(rows, counts, seen_of(tensors), things_of(tensors, metadata))


def plain_settings(metadata: dict[str, Any]) -> Settings:
    """The case's configuration as the plain peer takes it."""
    return Settings(
        alpha=metadata["alpha"],
        beta=metadata["beta"],
        ensemble_on_valid=bool(metadata["valid"]),
        object_threshold=metadata["omt"],
        overlap_threshold=metadata["ovt"],
        top_k=metadata["topk"],
    )


def check_class_probabilities(tensors: dict[str, Tensor], index: int, found: Tensor) -> None:
    """(Q, K) beside the case's log probabilities, which have a floor, and the void's last."""
    check_log_probabilities(tensors, index, (found + SMALLEST).log())


def check_log_probabilities(tensors: dict[str, Tensor], index: int, found: Tensor) -> None:
    """(Q, K) with the floor beside the case's, without the void's."""
    expected = tensors[f"mid.mask_cls_log_{index}"][:, : found.shape[1]]
    high = expected > -18  # below, the floor decides
    torch.testing.assert_close(found[high], expected[high], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.exp(), expected.exp(), atol=1e-4, rtol=1e-3)


def check_results(
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    index: int,
    probabilities: Tensor,
    mask_logits: Tensor,
    frame: Frame,
) -> None:
    """Our semantic scores, panoptic map and instances beside the case's."""
    options, is_thing = inference_of(metadata), things_of(tensors, metadata)
    logits = upsample(mask_logits, frame)
    expected = tensors[f"output.sem_seg_{index}"]
    scores = semantic_scores(probabilities, logits.sigmoid())
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)
    whole = segment(probabilities, mask_logits, frame, is_thing, options=options)
    assert whole.semantic is not None
    assert whole.panoptic is not None
    assert share_of_difference(whole.semantic, expected.argmax(0)) <= 1e-3
    segments = [(s.id, s.label, s.is_thing) for s in whole.segments]
    check_panoptic(tensors, metadata, index, whole.panoptic, segments)
    found = instances(probabilities, logits, is_thing, options=options)
    areas = found.masks.flatten(1).sum(1)
    check_instances(tensors, index, found.labels, found.scores, areas)


def check_panoptic(
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    index: int,
    found: Tensor,
    segments: list[tuple[int, int, bool]],
) -> None:
    """The same map, and the same segments in the same order."""
    expected = tensors[f"output.panoptic_seg_{index}"].int()
    assert share_of_difference(found, expected) <= 1e-3
    assert segments == [
        (segment["id"], segment["category_id"], segment["isthing"])
        for segment in metadata[f"segments_info_{index}"]
    ]


def share_of_difference(found: Tensor, expected: Tensor) -> float:
    """The share of pixels with another value."""
    return (found != expected).float().mean().item()


def check_instances(
    tensors: dict[str, Tensor], index: int, labels: Tensor, scores: Tensor, areas: Tensor
) -> None:
    """The same multiset of class, score and area, compared in the order of class and score."""
    names = ("classes", "scores", "mask_area")
    columns = (tensors[f"output.instance_{name}_{index}"].tolist() for name in names)
    theirs = sorted(zip(*columns, strict=True))
    ours = sorted(zip(labels.tolist(), scores.tolist(), areas.tolist(), strict=True))
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    pixels = tensors[f"output.panoptic_seg_{index}"].numel()
    for own, other in zip(ours, theirs, strict=True):
        assert own[1] == pytest.approx(other[1], rel=1e-3, abs=1e-4)
        assert abs(own[2] - other[2]) <= max(1, 1e-3 * pixels)
