"""FC-CLIP from an image to its results beside the plain peer, on random models of both towers."""

import pytest
import torch
from plain.fcclip import PlainFcclip, Settings, Words
from tiny_towers import tiny_convnext, tiny_resnet
from torch.nn import functional as F

from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.inference import InferenceOptions, segment, semantic_scores
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.proposers.mask2former.clip_model import ClipMask2Former
from ovseg_cli.structures import Frame, FramedImage, TextEmbeddings
from ovseg_cli.upsampling import upsample

FRAMES = {  # padded, resized, original
    "as it is": Frame((64, 96), (64, 96), (64, 96)),
    "padded by its batch": Frame((128, 96), (70, 81), (70, 81)),
    "made larger": Frame((64, 96), (61, 90), (122, 180)),
    "made smaller": Frame((96, 64), (90, 61), (47, 33)),
}
COUNTS = (1, 3, 2, 1, 4)  # synonyms a class


def random_model(clip: ClipEncoder) -> ClipMask2Former:
    """Sampling offsets and temperatures are not those of the start, masks large, small and none."""
    model = ClipMask2Former(
        clip=clip,
        hidden_dim=32,
        mask_dim=32,
        queries=12,
        heads=4,
        encoder_layers=2,
        encoder_feedforward_dim=64,
        decoder_layers=3,
        feedforward_dim=64,
    )
    for layer in model.pixel_decoder.layers:
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.05)
        torch.nn.init.normal_(layer.attention.attention.weight, std=0.1)
    torch.nn.init.normal_(model.mask_decoder.query_features.weight, std=2.0)
    torch.nn.init.normal_(model.mask_decoder.mask_head[-1].weight, std=1.0)
    torch.nn.init.normal_(model.mask_decoder.class_head.embed[-1].weight, std=1.0)
    return model.eval().requires_grad_(False)


def random_words() -> Words:
    rows = F.normalize(torch.randn(sum(COUNTS), 16), dim=-1)
    seen = torch.tensor([True, False, True, False, True])
    return Words(rows, COUNTS, seen, torch.tensor([True, True, False, False, True]))


@pytest.mark.parametrize("gating", [False, True])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("tower", [tiny_convnext, tiny_resnet])
def test_same_results(tower, frame: Frame, gating: bool) -> None:
    torch.manual_seed(3)
    clip = tower()
    model, words = random_model(clip), random_words()
    settings = Settings(
        alpha=0.3, beta=0.7, ensemble_on_valid=gating, overlap_threshold=0.1, top_k=17
    )
    framed = FramedImage(255 * torch.rand(3, *frame.padded), frame)
    expected = PlainFcclip(model, clip, words, settings).segment(
        model.dense.normalise(framed), frame
    )

    proposals = model.propose(framed)
    encoded = MaskPooling(clip).encode(framed, proposals)
    class_of = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    classification = Classification(
        scale="clip",
        background=None,
        synonyms="max",
        object_score=False,
        ensemble="geometric",
        alpha=settings.alpha,
        beta=settings.beta,
        ensemble_on_valid=gating,
    ).with_scale_of(clip.logit_scale)
    probabilities = classification.probabilities(
        encoded, proposals, TextEmbeddings(words.rows, class_of), seen=words.seen
    )
    options = InferenceOptions(
        object_threshold=0.0, overlap_threshold=0.1, reject_background=True, top_k=17
    )
    found = segment(probabilities, proposals.mask_logits, frame, words.is_thing, options=options)

    own = (probabilities + 1e-8).log()
    assert torch.allclose(own, expected.log_probabilities[:, :-1], atol=1e-3)
    assert found.semantic is not None
    assert found.panoptic is not None
    assert found.instances is not None
    assert same(found.semantic, expected.semantic.argmax(0))
    masks = upsample(proposals.mask_logits, frame).sigmoid()
    scores = semantic_scores(probabilities, masks)
    assert torch.allclose(scores, expected.semantic, atol=1e-3)
    assert same(found.panoptic, expected.panoptic)
    assert [(s.id, s.label, s.is_thing) for s in found.segments] == expected.segments
    order = expected.instances.scores.argsort(descending=True)
    filled = expected.instances.masks[order].flatten(1).any(1)
    best = expected.instances.scores[order][filled]
    assert torch.allclose(found.instances.scores, best, atol=1e-4)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found != expected).float().mean() <= 1e-3)
