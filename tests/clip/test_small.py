import pytest

from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.errors import RecipeError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 20}, r"\[clip\] image_size: 20 is not a multiple of patch_size \(8\)"),
        ({"width": 30}, r"\[clip\] width: 30 is not a multiple of heads \(4\)"),
        ({"text_width": 30}, r"\[clip\] text_width: 30 is not a multiple of text_heads \(4\)"),
        ({"patch_size": 12, "image_size": 24}, "patch_size: 12 is not a power of two"),
    ],
)
def test_sizes_that_do_not_fit_one_another_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        build_small_clip(**options)
