"""Images framed for the networks."""

import numpy as np
import torch
from PIL import Image

from ovseg_cli.datasets.framing import frame_image, resized_size


def test_an_image_that_fits_is_only_padded() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    framed = frame_image(image, short_side=None, max_side=None)
    assert framed.frame.padded == (64, 96)
    assert framed.frame.resized == framed.frame.original == (50, 70)
    assert torch.equal(framed.pixels[:, :50, :70], image.float())
    assert framed.pixels[:, 50:].abs().max() == 0
    assert framed.pixels[:, :, 70:].abs().max() == 0


def test_the_short_side_decides_unless_the_long_side_exceeds_its_maximum() -> None:
    assert resized_size((480, 640), short_side=800, max_side=1333) == (800, 1067)
    assert resized_size((300, 900), short_side=800, max_side=1333) == (444, 1333)
    assert resized_size((10, 1000), short_side=None, max_side=100) == (1, 100)


def test_resizing_is_pillows_bilinear_filter() -> None:
    image = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8)
    framed = frame_image(image, short_side=64, max_side=None, size_divisor=1)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((64, 85), Image.BILINEAR)
    assert framed.frame.resized == (85, 64)
    assert np.array_equal(framed.pixels.permute(1, 2, 0).numpy(), np.asarray(pixels))
