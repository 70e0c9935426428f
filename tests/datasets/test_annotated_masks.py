"""Run lengths and polygons, compared with pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from ovseg_cli.datasets.annotated_masks import instance_mask, run_length_mask, unpacked_counts
from ovseg_cli.errors import InputError

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(deadline=None)
@given(masks)
def test_packed_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(run_length_mask(packed, mask.shape).numpy(), mask)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_packed_counts_equal_those_that_were_packed(counts: list[int]) -> None:
    total = sum(counts)
    if total == 0:
        return
    packed = coco_mask.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)
    assert unpacked_counts(packed["counts"]) == counts


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [10, 10], "counts": b"0"}, "sum to 0, the image has 100"),
        ({"size": [100_000, 100_000], "counts": b"0"}, "run lengths of size"),
        ({"size": [10, 10], "counts": "P"}, "end within a number"),
        ({"size": [10, 10], "counts": "\x01"}, "a character"),
        ({"size": [10, 10], "counts": "o" * 100}, "a character"),
        ({"size": [10, 10], "counts": [50, -10, 60]}, "whole numbers"),
        ({"size": [10, 10], "counts": [1.5, 98.5]}, "whole numbers"),
        ({"size": [10, 10]}, "whole numbers"),
        ({"counts": [100]}, "run lengths of size None"),
        ({"size": 10, "counts": [100]}, "run lengths of size 10"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(rle: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_length_mask(rle, (10, 10))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "neither polygons nor run lengths"),
        ([], "neither polygons nor run lengths"),
        ([[0, 0, 1, 1]], "3 or more points"),
        ([[0, 0, 1, 1, 2, 2, 3]], "3 or more points"),
        ([["0", 0, 1, 1, 2, 2]], "3 or more points"),
        ([[0, 0, 1, 1, 2, 1e9]], "leaves the image of 10 x 10 by far"),
        ([[0, 0, 1, 1, 2, float("nan")]], "leaves the image of 10 x 10 by far"),
        ([[0, 0, 1, 1, 2, 10**400]], "leaves the image of 10 x 10 by far"),
    ],
)
def test_polygons_that_do_not_fit_are_refused(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        instance_mask(segmentation, (10, 10))
