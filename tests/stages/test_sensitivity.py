"""Whether the segmenter's classifier tells an annotated mask from worse versions of it."""

from collections.abc import Callable

import pytest
import torch
from tiny_clip import tiny_clip
from torch import Tensor

from ovseg_cli.classification import Classification
from ovseg_cli.cosine_logits import ClassifierLogits
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.scoring import ScoredImage
from ovseg_cli.stages.sensitivity import Sensitivity
from ovseg_cli.structures import EncodedMasks, Frame, FramedImage, Proposals, Sample, Vocabulary

SIZE = (4, 6)
FRAME = Frame(SIZE, SIZE, SIZE)
WORDS = ("cat", "dog", "sky")
VOCABULARY = Vocabulary(
    WORDS, tuple((word,) for word in WORDS), (True, True, False), (True, False, True)
)


class ByArea:
    """Embeddings that are the nearer to the first word the more a number of the area says so."""

    def __init__(self, of_area: Callable[[Tensor], Tensor], words: Tensor) -> None:
        self.of_area, self.words = of_area, words

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        areas = (proposals.mask_logits > 0).flatten(1).sum(1).float()
        embeddings = self.of_area(areas)[:, None] * self.words[0] + self.words[1]
        valid = torch.ones(len(areas), dtype=torch.bool)
        return EncodedMasks(embeddings, proposals.mask_logits, valid)


def segmenter(of_area: Callable[[Tensor], Tensor]) -> Segmenter:
    clip = tiny_clip(layers=1)
    words = torch.nn.functional.normalize(clip.encode_text(WORDS), dim=-1)
    options = Classification(background=None, scale=5.0)
    return Segmenter(None, ByArea(of_area, words), clip, classification=options)


def image_of(masks: Tensor, labels: list[int], crowds: list[bool] | None = None) -> ScoredImage:
    sample = Sample(
        torch.zeros(3, *SIZE, dtype=torch.uint8),
        1,
        "a.png",
        masks,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowds or [False] * len(masks), dtype=torch.bool),
    )
    nothing = Proposals(torch.zeros(0, *SIZE), FRAME, torch.zeros(0))
    valid = torch.zeros(0, dtype=torch.bool)
    return ScoredImage(
        sample,
        torch.zeros(len(masks), dtype=torch.bool),
        FramedImage(torch.zeros(3, *SIZE), FRAME),
        nothing,
        nothing,
        EncodedMasks(torch.zeros(0, 16), nothing.mask_logits, valid),
        ClassifierLogits(None, torch.zeros(0, 3), False, valid, nothing.scores),
    )


def square(top: int = 1, left: int = 1, side: int = 2) -> Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("of_area", "half", "background"),
    [
        (lambda area: area / 4, 0.0, 1.0),  # more is better, background or not
        (lambda area: 4 / area, 1.0, 0.0),
        (lambda area: 1 - (area - 4).abs() / 8, 0.0, 0.0),  # the mask itself is best
        (torch.ones_like, 0.0, 0.0),
    ],
)
def test_a_classifier_by_area_is_found_out(
    of_area: Callable[[Tensor], Tensor], half: float, background: float
) -> None:
    metric = Sensitivity(segmenter(of_area), VOCABULARY)
    metric.update(image_of(square()[None], [0]))
    expected = {"half": half, "background": background, "either": max(half, background), "masks": 1}
    found = metric.compute()
    assert found["all"] == found["base"] == expected
    assert found["novel"] == {"half": None, "background": None, "either": None, "masks": 0}


def test_crowds_and_masks_without_worse_versions_do_not_count() -> None:
    metric = Sensitivity(segmenter(lambda area: area), VOCABULARY)
    metric.update(image_of(torch.zeros(0, *SIZE, dtype=torch.bool), []))
    most = torch.ones(SIZE, dtype=torch.bool)
    tiny = square(side=1)
    masks = torch.stack([square(), square(), most, tiny])
    metric.update(image_of(masks, [0, 1, 0, 0], [False, True, False, False]))
    found = metric.compute()
    assert (found["all"]["masks"], found["novel"]["masks"]) == (1, 0)
