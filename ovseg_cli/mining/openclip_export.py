"""Mined pairs in the form that OVSeg's own trainer reads (a fork of open_clip's).

pairs/openclip/mined_pairs.csv    filepath<TAB>title, a header and a line a pair
pairs/openclip/mined_pairs/       the crops, a folder a thousand

A crop is the mask's box with everything else in it filled with (124, 116, 103). That trainer takes
the mask to be what has another colour than the fill, so crops are lossless PNG, and a pixel of the
mask that happens to have the fill's colour is one level of blue brighter.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from ovseg_cli.datasets.mined_pairs import MinedPair, MinedPairs
from ovseg_cli.progress import progress
from ovseg_cli.storage import writing
from ovseg_cli.writers import write_png

FILL = (124, 116, 103)
NAME = "mined_pairs"
CROPS_PER_FOLDER = 1000


def export_pairs(pairs: MinedPairs, folder: Path, *, check: Callable[[], None]) -> Path:
    """Writes crops and list; crops that are there already are left alone.

    Args:
        pairs: finished.
        folder: gets the list and the folder of crops.
        check: called before each pair; may raise to stop.

    Returns:
        The list's path. It names the crops by absolute paths, as the trainer opens them.

    Raises:
        InputError: an image cannot be read any more.
        StorageError: no space left, or the folder cannot be written.
    """
    path = folder / f"{NAME}.csv"
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("filepath\ttitle\n")
        for crop, pair in _written(pairs, folder.resolve() / NAME, check):
            file.write(f"{crop}\t{pair.noun}\n")
    return path


def filled_crop(
    pixels: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], box: tuple[int, int, int, int]
) -> UInt8[Tensor, "3 h w"]:
    """The mask's box, filled outside of the mask.

    Args:
        pixels: RGB.
        mask: True inside.
        box: x0, y0, x1, y1 in pixels, right and bottom exclusive.
    """
    x0, y0, x1, y1 = box
    crop, inside = pixels[:, y0:y1, x0:x1].clone(), mask[y0:y1, x0:x1]
    fill = torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
    crop[2] += ((crop == fill).all(0) & inside).to(torch.uint8)
    return torch.where(inside, crop, fill)


def _written(
    pairs: MinedPairs, folder: Path, check: Callable[[], None]
) -> Iterator[tuple[Path, MinedPair]]:
    name, pixels = None, torch.zeros(3, 0, 0, dtype=torch.uint8)
    shown = progress(pairs, title="crops", unit="pair", total=len(pairs))
    for number, pair in enumerate(shown):
        check()
        path = folder / f"{number // CROPS_PER_FOLDER:05d}" / f"{number:08d}.png"
        if not path.is_file():
            if pair.image != name:
                name, pixels = pair.image, pairs.pixels_of(pair)
            crop = filled_crop(pixels, pair.mask(), pair.box)
            write_png(path, Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy()))
        yield path, pair
