import pytest
import torch

from ovseg_cli.mining.pairing import Choice, PairingOptions, _inside, _packed, best_masks
from ovseg_cli.structures import Frame
from ovseg_cli.upsampling import upsample

NOUNS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the third cannot be read
MASKS = torch.tensor([[3.0, 4.0], [8.0, 6.0], [0.0, 9.0], [1.0, 0.0]])  # cosines .6 .8 0 1
ALL = torch.ones(4, dtype=torch.bool)


def rounded(choices):
    return [(choice.noun, choice.mask, round(choice.score, 4)) for choice in choices]


def test_each_noun_takes_the_nearest_mask():
    assert rounded(best_masks(NOUNS, MASKS, ALL, PairingOptions())) == [(0, 3, 1.0), (1, 2, 1.0)]


def test_an_unusable_mask_is_not_taken():
    usable = torch.tensor([True, True, True, False])
    assert rounded(best_masks(NOUNS, MASKS, usable, PairingOptions()))[0] == (0, 1, 0.8)


def test_several_masks_come_best_first_and_above_the_floor():
    options = PairingOptions(floor=0.7, pairs_per_noun=3)
    found = rounded(best_masks(NOUNS, MASKS, ALL, options))
    assert found == [(0, 3, 1.0), (0, 1, 0.8), (1, 2, 1.0), (1, 0, 0.8)]


def test_more_masks_than_there_are_is_all_of_them():
    found = best_masks(NOUNS[:1], MASKS, ALL, PairingOptions(pairs_per_noun=9))
    assert [choice.mask for choice in found] == [3, 1, 0, 2]


def test_the_first_of_equals_wins():
    twins = torch.tensor([[0.0, 1.0], [2.0, 0.0], [2.0, 0.0]])
    (choice,) = best_masks(NOUNS[:1], twins, ALL[:3], PairingOptions())
    assert choice == Choice(0, 1, 1.0)


@pytest.mark.parametrize("masks", [0, 1])
def test_no_mask_and_one_mask(masks):
    found = best_masks(NOUNS[:1], MASKS[:masks], ALL[:masks], PairingOptions())
    assert len(found) == masks


def test_boxes_and_areas_are_in_pixels_of_the_image():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[1, 1:3, 2:5] = True
    packed = _packed(masks, [1])
    assert list(packed) == [1]
    assert packed[1]["box"] == [2, 1, 5, 3]
    assert packed[1]["area"] == 6
    assert packed[1]["segmentation"]["size"] == [4, 6]


def test_masks_are_those_of_the_upsampled_logits_whatever_the_tiles(monkeypatch):
    monkeypatch.setattr("ovseg_cli.upsampling.CPU_TILE", 4096)
    logits = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))
    frame = Frame(padded=(32, 48), resized=(30, 45), original=(70, 105))
    inside = _inside(logits, frame)
    assert torch.equal(inside, upsample(logits, frame) > 0)
    assert _inside(logits[:0], frame).shape == (0, 70, 105)
