"""The upper bound of proposals: classes from the annotations."""

import pytest
import torch

from ovseg_cli.stages.oracle_classes import oracle_scores
from ovseg_cli.structures import Frame, Sample

SIZE = (2, 4)
FRAME = Frame(SIZE, SIZE, SIZE)


def sample_of(masks: torch.Tensor, labels: list[int]) -> Sample:
    return Sample(
        torch.zeros(3, *SIZE, dtype=torch.uint8),
        1,
        "a.png",
        masks,
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(masks), dtype=torch.bool),
    )


def columns(*of: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[:, list(of)] = True
    return mask


def logits_of(*masks: torch.Tensor) -> torch.Tensor:
    return 200 * torch.stack(masks).float() - 100


def test_scores_by_hand() -> None:
    """Class 2 has columns 0 and 1 as two segments, class 0 has column 2, column 3 is void.

    Column 0 alone is a segment of class 2. Columns 0 and 1 are all of it. Columns 1 to 3 overlap
    class 2 by 1 of 3 (its second segment) or 1 of 4 columns (all of it), class 0 by 1 of 3.
    """
    sample = sample_of(torch.stack([columns(0), columns(1), columns(2)]), [2, 2, 0])
    masks = logits_of(columns(0), columns(0, 1), columns(1, 2, 3), columns(3), columns())
    found = oracle_scores(masks, FRAME, sample, classes=3)
    expected = torch.tensor([[0, 0, 1], [0, 0, 1], [1 / 3, 0, 1 / 3], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(found, expected.float())
    labels = oracle_scores(masks[[0, 1, 3]], FRAME, sample, classes=3, kind="label")
    assert labels.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_masks_that_are_not_sure_count_by_their_probabilities() -> None:
    """Probability 0.5 everywhere, half of it inside: 2 of 4 annotated, 4 in the mask, 6 in both."""
    sample = sample_of(columns(0, 1)[None], [0])
    found = oracle_scores(torch.zeros(1, 2, 2), FRAME, sample, classes=1)
    torch.testing.assert_close(found, torch.tensor([[2 / 6]]))


@pytest.mark.parametrize("kind", ["iou", "label"])
def test_no_proposal_and_no_annotation_are_fine(kind: str) -> None:
    sample = sample_of(columns(0)[None], [1])
    assert oracle_scores(torch.zeros(0, 2, 2), FRAME, sample, classes=2, kind=kind).shape == (0, 2)
    nothing = sample_of(torch.zeros(0, *SIZE, dtype=torch.bool), [])
    found = oracle_scores(torch.ones(3, 2, 2), FRAME, nothing, classes=2, kind=kind)
    assert found.tolist() == [[0, 0]] * 3
