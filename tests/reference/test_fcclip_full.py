"""Agreement of the whole of FC-CLIP with the released code, from image to panoptic map.

The weights come in through the importer. The images of a batch go through one by one, each in the
frame that the batch shares.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from plain.fcclip import PlainFcclip
from reference_cases import cases, load
from released_fcclip import (
    check_class_probabilities,
    check_instances,
    check_log_probabilities,
    check_panoptic,
    check_results,
    classification_of,
    clip_and_proposer,
    framed_images,
    plain_settings,
    plain_words,
    seen_of,
    texts_of,
)
from torch import Tensor

from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.structures import FramedImage

CASES = pytest.mark.parametrize("path", cases("fcclip_full_"))
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
LOGITS_CLOSE = {"atol": 2e-2, "rtol": 1e-4}


def loaded(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[FramedImage]]:
    tensors, metadata = load(path)
    return tensors, metadata, framed_images(tensors, metadata, tensors["mid.pred_masks"])


@CASES
def test_the_networks_agree_layer_by_layer(path: Path) -> None:
    tensors, metadata, images = loaded(path)
    _, model = clip_and_proposer(tensors, metadata)
    texts = texts_of(tensors)
    for index, framed in enumerate(images):
        normalised = model.dense.normalise(framed)
        expect(tensors, index, "mid.image_normalized", normalised)
        levels = model.dense.levels(normalised[None])
        for number, level in enumerate(levels):
            expect(tensors, index, f"mid.res{number + 2}", level[0])
        pixels = model.pixel_decoder(levels)
        expect(tensors, index, "mid.mask_features", pixels.mask_features[0])
        for number, level in enumerate(pixels.levels):
            expect(tensors, index, f"mid.multi_scale_{number}", level[0])
        *auxiliary, final = model.mask_decoder(pixels, every_layer=True)
        for number, prediction in enumerate(auxiliary):
            logits = model.class_logits(prediction.classes[0], texts)
            expect(tensors, index, f"mid.aux_logits_{number}", logits, LOGITS_CLOSE)
            if f"mid.aux_masks_{number}" in tensors:
                expect(tensors, index, f"mid.aux_masks_{number}", prediction.mask_logits[0])
        logits = model.class_logits(final.classes[0], texts)
        expect(tensors, index, "mid.pred_logits", logits, LOGITS_CLOSE)
        expect(tensors, index, "mid.pred_masks", final.mask_logits[0])


def expect(
    tensors: dict[str, Tensor],
    index: int,
    name: str,
    found: Tensor,
    tolerance: dict[str, float] = CLOSE,
) -> None:
    """The case's own, of one image of its batch."""
    torch.testing.assert_close(
        found, tensors[name][index], **tolerance, msg=lambda text: f"{name}: {text}"
    )


@CASES
def test_the_whole_agrees_from_image_to_results(path: Path) -> None:
    tensors, metadata, images = loaded(path)
    clip, model = clip_and_proposer(tensors, metadata)
    classification, encoder = classification_of(metadata, clip), MaskPooling(clip)
    for index, framed in enumerate(images):
        proposals = model.propose(framed)
        encoded = encoder.encode(framed, proposals)
        expect(tensors, index, "mid.mask_clip_embedding", encoded.embeddings)
        probabilities = classification.probabilities(
            encoded, proposals, texts_of(tensors), seen=seen_of(tensors)
        )
        check_class_probabilities(tensors, index, probabilities)
        check_results(tensors, metadata, index, probabilities, proposals.mask_logits, framed.frame)


@CASES
def test_the_plain_peer_agrees_too(path: Path) -> None:
    tensors, metadata, images = loaded(path)
    clip, model = clip_and_proposer(tensors, metadata)
    peer = PlainFcclip(model, clip, plain_words(tensors, metadata), plain_settings(metadata))
    for index, framed in enumerate(images):
        normalised = model.dense.normalise(framed)
        predictions = peer.predictions(peer.pixels(peer.levels(normalised[None])))
        for number, (logits, _) in enumerate(predictions[:-1]):
            expect(tensors, index, f"mid.aux_logits_{number}", logits[0], LOGITS_CLOSE)
        expect(tensors, index, "mid.pred_logits", predictions[-1][0][0], LOGITS_CLOSE)
        expect(tensors, index, "mid.pred_masks", predictions[-1][1][0])
        found = peer.segment(normalised, framed.frame)
        check_log_probabilities(tensors, index, found.log_probabilities)
        scores = tensors[f"output.sem_seg_{index}"]
        torch.testing.assert_close(found.semantic, scores, atol=1e-3, rtol=1e-4)
        check_panoptic(tensors, metadata, index, found.panoptic, found.segments)
        labels, areas = found.instances.labels, found.instances.masks.flatten(1).sum(1)
        check_instances(tensors, index, labels, found.instances.scores, areas)
