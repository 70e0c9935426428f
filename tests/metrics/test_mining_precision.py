import torch

from ovseg_cli.metrics.mining_precision import MiningPrecision
from ovseg_cli.structures import Sample, Vocabulary

VOCABULARY = Vocabulary(
    ("couch", "dog", "sky"), (("couch", "sofa"), ("dog",), ("sky",)), (True,) * 3
)


def rows(*spans):
    """Masks of a 4 x 1 image, each the rows from start to stop."""
    masks = torch.zeros(len(spans), 4, 1, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[start:stop] = True
    return masks


def sample(masks, labels, crowds=None):
    crowd = torch.tensor(crowds or [False] * len(labels))
    image = torch.zeros(3, 4, 1, dtype=torch.uint8)
    return Sample(image, 1, "a.jpg", masks, torch.tensor(labels), crowd)


def test_a_table_worked_by_hand():
    annotated = sample(rows((0, 2), (2, 4)), [0, 1])
    metric = MiningPrecision.of(VOCABULARY)
    nouns = ["Sofa", "dog", "dog", "sky", "tree"]
    # IoU 2/3 with the couch; 1 with the dog; 1/2, which is not above 1/2; nothing to judge by
    metric.update(nouns, rows((0, 3), (2, 4), (3, 4), (0, 4), (0, 4)), annotated)
    assert metric.compute() == {
        "judged": 3,
        "right": 2,
        "not_annotated": 1,
        "unknown": 1,
        "precision": 2 / 3,
        "class_mean": 0.75,  # couch 1 of 1, dog 1 of 2
    }


def test_any_segment_of_the_class_will_do():
    metric = MiningPrecision.of(VOCABULARY)
    metric.update(["dog"], rows((2, 4)), sample(rows((0, 2), (2, 4)), [1, 1]))
    assert metric.right == 1


def test_crowds_and_empty_counts():
    metric = MiningPrecision.of(VOCABULARY)
    assert metric.compute() == {"judged": 0, "right": 0, "not_annotated": 0, "unknown": 0}
    metric.update(["dog"], rows((0, 4)), sample(rows((0, 4)), [1], [True]))
    assert metric.compute()["not_annotated"] == 1


def test_nouns_of_an_image_that_nobody_annotated_are_not_judged():
    metric = MiningPrecision.of(VOCABULARY)
    metric.update(["dog", "tree"], rows((0, 4), (0, 4)), None)
    assert metric.compute() == {"judged": 0, "right": 0, "not_annotated": 1, "unknown": 1}
