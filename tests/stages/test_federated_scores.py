"""LVIS's rule in an evaluation: what was not looked for in an image is neither right nor wrong."""

from dataclasses import replace

import pytest
import torch

from ovseg_cli.stages.scores import Scores
from ovseg_cli.structures import Instances, Sample, Segmentation, Vocabulary

WORDS = Vocabulary(("cup", "fork"), (("cup",), ("fork",)), (True, True))
HALF = torch.zeros(1, 4, 4, dtype=torch.bool)
HALF[:, :2] = True
CUP = Sample(
    image=torch.zeros(3, 4, 4, dtype=torch.uint8),
    image_id=1,
    file_name="a.jpg",
    masks=HALF,
    labels=torch.tensor([0]),
    is_crowd=torch.tensor([False]),
)
FORK = replace(CUP, image_id=2, file_name="b.jpg", labels=torch.tensor([1]))


def found(labels: list[int], scores: list[float]) -> Segmentation:
    masks = HALF.expand(len(labels), 4, 4)
    return Segmentation(instances=Instances(masks, torch.tensor(labels), torch.tensor(scores)))


@pytest.mark.parametrize(("absent", "ap"), [(None, 0.5), ((1,), 0.5), ((), 1.0)])
def test_a_fork_beside_the_cup_counts_where_forks_were_looked_for(
    absent: tuple[int, ...] | None, ap: float
) -> None:
    scores = Scores(WORDS, tasks=("instance",))
    scores.update(found([0, 1], [0.9, 0.8]), replace(CUP, absent=absent))
    scores.update(found([1], [0.7]), replace(FORK, absent=None if absent is None else ()))
    _, per_class = scores.compute()
    assert [row["ap"] for row in per_class] == [1.0, pytest.approx(ap, abs=0.01)]
