"""All metrics of one image by hand, for seen and unseen classes."""

import pytest
import torch
from torch import Tensor

from ovseg_cli.inference import TASKS
from ovseg_cli.stages.scores import Scores, class_map, results_table, segment_map
from ovseg_cli.structures import Instances, Sample, Segment, Segmentation, Vocabulary

WORDS = ("cat", "kite", "grass", "snow")
VOCABULARY = Vocabulary(
    WORDS,
    tuple((word,) for word in WORDS),
    is_thing=(True, True, False, False),
    seen=(True, False, True, False),
)


def masks_of(row: list[int], count: int) -> Tensor:
    return torch.tensor([row]) == torch.arange(count)[:, None, None]


def sample_of(masks: Tensor, labels: list[int]) -> Sample:
    size = masks.shape[1:]
    nobody = torch.zeros(len(masks), dtype=torch.bool)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    return Sample(image, 1, "a.png", masks, torch.tensor(labels).long(), nobody)


def test_every_figure_of_an_image_by_hand() -> None:
    truth = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    found = [0, 0, 0, 0, 1, 1, 1, 3, 3, 3, 3, 3]
    present = (0, 1, 3)
    ids = torch.tensor([[present.index(label) + 1 for label in found]])
    segments = tuple(Segment(i, label, label < 2, 1.0, 1) for i, label in enumerate(present, 1))
    instances = Instances(masks_of(found, 2), torch.tensor([0, 1]), torch.tensor([0.9, 0.8]))
    scores = Scores(VOCABULARY, tasks=TASKS)
    sample = sample_of(masks_of(truth, 4), [0, 1, 2, 3])
    scores.update(Segmentation(ids, segments, torch.tensor([found]), instances), sample)
    results, rows = scores.compute()
    # IoU: cat 1, kite 3/4, grass 0, snow 2/5
    assert results["semantic"]["base"]["miou"] == pytest.approx(1 / 2)
    assert results["semantic"]["novel"]["miou"] == pytest.approx(23 / 40)
    assert results["semantic"]["harmonic"]["miou"] == pytest.approx(23 / 43)
    # PQ: cat 1, kite 3/4 x 1, grass missed, snow's IoU is no match
    assert results["panoptic"]["base"] == {"pq": 0.5, "sq": 0.5, "rq": 0.5, "classes": 2}
    assert results["panoptic"]["novel"]["pq"] == pytest.approx(3 / 8)
    assert results["panoptic"]["harmonic"]["pq"] == pytest.approx(3 / 7)
    assert results["panoptic"]["things"]["pq"] == pytest.approx(7 / 8)
    assert results["panoptic"]["stuff"]["pq"] == 0.0
    # AP of things: cat 1, kite at six of ten IoUs
    assert results["instance"]["all"] == pytest.approx({"ap": 0.8, "ap50": 1.0, "ap75": 1.0})
    assert results["instance"]["harmonic"]["ap"] == pytest.approx(3 / 4)
    assert results["instance"]["stuff"]["ap"] is None
    assert rows[1]["class"] == "kite"
    assert rows[1]["ap"] == pytest.approx(0.6)
    assert rows[1]["ap75"] == 1.0
    table = {row[0]: row[1:] for row in results_table(results)}
    assert table["%"][:4] == ("all", "base (seen)", "novel (unseen)", "harmonic")
    assert table["mask AP75"][:4] == ("100.0", "100.0", "100.0", "100.0")
    assert table["mask AP"][:4] == ("80.0", "100.0", "60.0", "75.0")


def test_the_last_of_overlapping_masks_is_in_the_map() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]]).bool()
    sample = sample_of(masks, [3, 2])
    assert segment_map(sample).tolist() == [[1, 2, 2, 0]]
    assert class_map(sample).tolist() == [[3, 2, 2, -1]]
    nothing = sample_of(masks[:0], [])
    assert segment_map(nothing).tolist() == [[0, 0, 0, 0]]
