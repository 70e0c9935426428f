"""Agreement of FC-CLIP's classification and inference with the released code, from its own inputs.

In-vocabulary logits, masks and CLIP's dense features are prescribed: mask pooling, the ensemble and
the three results are ours. Mask 0 is empty, and mask 1 is full.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain.fcclip import PlainFcclip, pooled_inside
from plain.inference import resized
from reference_cases import cases, load
from released_fcclip import (
    check_class_probabilities,
    check_instances,
    check_log_probabilities,
    check_panoptic,
    check_results,
    classification_of,
    clip_of,
    framed_images,
    plain_settings,
    plain_words,
    released_state,
    seen_of,
    texts_of,
)
from torch import nn

from ovseg_cli.cosine_logits import ClassifierLogits, class_texts
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.structures import EncodedImage, Proposals

CASES = pytest.mark.parametrize("path", cases("fcclip_post_"))
CLIP = "backbone.clip_model."


def clip_weights(tensors):
    """A case of this kind is no whole file: the CLIP's share, as the importer would split it."""
    state = released_state(tensors)
    return {name.removeprefix(CLIP): t for name, t in state.items() if name.startswith(CLIP)}


@CASES
def test_classes_and_results_agree(path: Path) -> None:
    tensors, metadata = load(path)
    clip = clip_of(clip_weights(tensors), metadata)
    encoder, classification = MaskPooling(clip), classification_of(metadata, clip)
    texts = class_texts(texts_of(tensors), "max")
    masks = tensors["input.pred_masks"]
    for index, framed in enumerate(framed_images(tensors, metadata, masks)):
        features = EncodedImage((tensors["input.clip_vis_dense"][index],))
        framed = replace(framed, encoded=features)
        proposals = Proposals(masks[index], framed.frame, torch.ones(len(masks[index])))
        encoded = encoder.encode(framed, proposals)
        expected = tensors["mid.mask_clip_embedding"][index]
        torch.testing.assert_close(encoded.embeddings, expected, atol=2e-4, rtol=1e-4)
        assert not encoded.valid[0]
        assert encoded.valid[1]
        logits = ClassifierLogits(
            tensors["input.pred_logits"][index],
            texts.logits(encoded.embeddings, classification.temperature),
            False,
            encoded.valid,
            proposals.scores,
        )
        probabilities = classification.combine(logits, seen=seen_of(tensors))
        check_class_probabilities(tensors, index, probabilities)
        check_results(tensors, metadata, index, probabilities, masks[index], framed.frame)


@CASES
def test_the_plain_peer_agrees_too(path: Path) -> None:
    tensors, metadata = load(path)
    clip = clip_of(clip_weights(tensors), metadata)
    model = nn.Module()
    model.void_embedding = nn.Embedding(1, tensors["input.text_classifier"].shape[1])
    model.void_embedding.weight.data = tensors["weights.void_embedding.weight"]
    peer = PlainFcclip(model, clip, plain_words(tensors, metadata), plain_settings(metadata))
    masks = tensors["input.pred_masks"]
    for index, framed in enumerate(framed_images(tensors, metadata, masks)):
        dense = tensors["input.clip_vis_dense"][index : index + 1]
        if "mid.pooled_clip_feature" in tensors:
            small = resized(masks[index], dense.shape[-2:])
            pooled = tensors["mid.pooled_clip_feature"][index]
            found = pooled_inside(dense, small[None])[0]
            torch.testing.assert_close(found, pooled, atol=2e-4, rtol=1e-4)
        with torch.no_grad():
            found = peer.results(
                tensors["input.pred_logits"][index], masks[index], dense, framed.frame
            )
        check_log_probabilities(tensors, index, found.log_probabilities)
        scores = tensors[f"output.sem_seg_{index}"]
        torch.testing.assert_close(found.semantic, scores, atol=1e-3, rtol=1e-4)
        check_panoptic(tensors, metadata, index, found.panoptic, found.segments)
        labels, areas = found.instances.labels, found.instances.masks.flatten(1).sum(1)
        check_instances(tensors, index, labels, found.instances.scores, areas)
