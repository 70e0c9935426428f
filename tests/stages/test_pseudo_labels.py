import torch
from torch import Tensor, nn

from ovseg_cli.classification import Classification
from ovseg_cli.mask_encoders.image_proposals import ImageProposals
from ovseg_cli.stages.pseudo_labels import PseudoLabels
from ovseg_cli.structures import TextEmbeddings

SIDE = 8


class Knows(ImageProposals):
    """Gives every mask the embedding that the test says, whatever the image."""

    def __init__(self, embeddings: Tensor) -> None:
        nn.Module.__init__(self)
        self.embeddings = embeddings

    def mask_embeddings(self, images: Tensor, masks: Tensor) -> Tensor:
        return self.embeddings[None]


def found(least_score: float, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """The left half is class 0, seen; the right half is class 1 or 2, unseen: 1 is likelier."""
    halves = torch.full((2, 4, 4), -30.0)
    halves[0, :, :2] = halves[1, :, 2:] = 30.0
    rows = torch.eye(3)
    embeddings = torch.stack([rows[0], 0.9 * rows[1] + 0.8 * rows[2]])
    labels = PseudoLabels(
        Knows(embeddings),
        TextEmbeddings(rows, torch.arange(3)),
        Classification(scale=10.0, background=None),
        torch.tensor([False, True, True]),
        least_score,
    )
    image, likely = torch.zeros(3, SIDE, SIDE), torch.zeros(2, 2, 2)
    return labels.found(image, likely, halves, annotated)


def test_sure_pixels_of_unseen_classes_that_nobody_annotated_are_found() -> None:
    top = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    top[:, :2] = True
    masks, classes = found(0.5, top)
    assert classes.tolist() == [1]
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[2:, SIDE // 2 :] = True
    assert torch.equal(masks[0], expected)


def test_unsure_and_annotated_pixels_are_left_alone() -> None:
    nothing = torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
    assert len(found(0.5, nothing)[1]) == 1
    masks, classes = found(0.8, nothing)  # 1 / (1 + exp(-0.83)) = 0.70 is less
    assert masks.shape == (0, SIDE, SIDE)
    assert len(classes) == 0
    everything = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    assert len(found(0.5, everything)[1]) == 0
