"""OVSeg's region branch beside its plain peer: any number of valid masks, any ensemble's weight."""

import pytest
import torch
from plain.ovseg import PlainOvseg
from tiny_clip import tiny_clip
from torch.nn import functional as F

from ovseg_cli.classification import Classification
from ovseg_cli.inference import semantic_scores
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.structures import Frame, FramedImage, Proposals, TextEmbeddings
from ovseg_cli.upsampling import probability_tiles

FRAME = Frame(padded=(96, 64), resized=(66, 58), original=(99, 87))
VALID = {
    "none": [False] * 3,
    "one": [False, True, False],
    "some": [True, False, True, True, False, True],
}


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID)
def test_semantic_scores_are_those_of_a_mask_after_the_other(
    valid: list[bool], weight: float
) -> None:
    generator, count = torch.Generator().manual_seed(0), len(valid)
    clip = tiny_clip(seed=3)
    crops = MaskedCrops(
        clip, region="box", fill="mean", threshold=0.4, tuned="mpt", prompts=2, batch_size=2
    )
    crops.mask_prompts.prompts.data.normal_(generator=generator)
    image = torch.rand(3, *FRAME.resized, generator=generator) * 255
    mask_logits = torch.randn(count, 24, 16, generator=generator).abs() * 3 - 2
    mask_logits[~torch.tensor(valid)] = -4.0
    embeddings = torch.randn(count, 16, generator=generator)
    words = torch.randn(4, 16, generator=generator)
    void = torch.randn(16, generator=generator)
    proposals = Proposals(
        mask_logits,
        FRAME,
        torch.ones(count),
        embeddings=embeddings,
        no_object=void,
        logit_scale=10.0,
    )
    padded = F.pad(image, (0, 64 - 58, 0, 96 - 66))
    encoded = crops.encode(FramedImage(padded, FRAME), proposals)
    assert encoded.valid.tolist() == valid

    options = {"ensemble": "product", "alpha": weight, "beta": weight} if weight else {}
    classification = Classification(background=None, object_score=False, **options)
    texts = TextEmbeddings(words, torch.arange(4))
    probabilities = classification.probabilities(encoded, proposals, texts)
    found = torch.zeros(4, *FRAME.original)
    for region, masks in probability_tiles(mask_logits, FRAME):
        found[:, *region] = semantic_scores(probabilities, masks)

    peer = PlainOvseg(clip, crops.mask_prompts.prompts, threshold=0.4, weight=weight)
    rows = F.normalize(torch.cat([words, void[None]]), dim=-1)
    own = 10 * F.normalize(embeddings, dim=-1) @ rows.T
    with torch.no_grad():
        expected = peer.semantic_scores(image, mask_logits, FRAME, own, words)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
