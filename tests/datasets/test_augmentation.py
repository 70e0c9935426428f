import torch

from ovseg_cli.datasets.augmentation import PAD_VALUE, flipped, jittered, resized, squashed
from ovseg_cli.structures import Sample


def sample(height: int = 20, width: int = 30) -> Sample:
    """Two masks, left and right of column 10, red where the first is."""
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, :, :10], masks[1, :, 10:] = True, True
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :, :10] = 255
    return Sample(image, 7, "a.jpg", masks, torch.tensor([3, 4]), torch.tensor([False, True]))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agree(result: Sample) -> bool:
    """The first mask covers what is red, up to the blur of a pixel at its edge."""
    red = result.image[0] > 200
    return bool((red == result.masks[0]).float().mean() > 0.95)


def test_flipping_twice_changes_nothing():
    twice = flipped(flipped(sample()))
    assert torch.equal(twice.image, sample().image)
    assert torch.equal(twice.masks, sample().masks)


def test_flipping_moves_the_left_to_the_right():
    assert flipped(sample()).masks[0, 0].tolist() == [False] * 20 + [True] * 10


def test_resizing_to_the_same_size_is_the_same_object():
    original = sample()
    assert resized(original, (20, 30)) is original


def test_image_and_masks_stay_together():
    for seed in range(6):
        assert agree(squashed(sample(), 64, seeded(seed)))
        assert agree(jittered(sample(), 64, seeded(seed), smallest=0.5, largest=1.0))


def test_the_result_is_a_square_of_the_size_asked_for():
    for seed in range(6):
        assert squashed(sample(), 64, seeded(seed)).image.shape == (3, 64, 64)
        result = jittered(sample(), 64, seeded(seed))
        assert result.image.shape == (3, 64, 64)
        assert result.masks.shape[1:] == (64, 64)


def test_a_small_scale_leaves_grey_that_belongs_to_no_mask():
    result = jittered(sample(), 64, seeded(0), smallest=0.5, largest=0.5)
    assert (result.image[:, 21:] == PAD_VALUE).all()
    assert (result.image[:, :, 32:] == PAD_VALUE).all()
    assert not result.masks[:, 21:].any()
    assert result.masks[:, :21, :32].any(0).all()


def test_masks_that_the_crop_leaves_out_are_dropped_with_their_labels():
    seen = set()
    for seed in range(20):
        result = jittered(sample(64, 64), 32, seeded(seed), smallest=2.0, largest=2.0)
        assert len(result.masks) == len(result.labels) == len(result.is_crowd)
        assert result.masks.flatten(1).any(1).all()
        seen.add(tuple(result.labels.tolist()))
    assert (4,) in seen


def test_the_same_seed_gives_the_same_crop():
    first, second = (jittered(sample(), 64, seeded(3)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.masks, second.masks)
