"""Image-caption pairs in COCO's captions layout, as squares of one size.

root/<split>/<file_name>
root/annotations/captions_<split>.json
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.datasets.annotated_masks import read_rgb
from ovseg_cli.datasets.coco_files import read_captions, read_json, safe_name
from ovseg_cli.errors import InputError

CACHE_BYTES = 2 << 30


class CaptionedImages:
    """The captioned images of a split, decoded when first asked for.

    Attributes:
        texts: every different caption, sorted.
        captions: for each image the indices of its captions in `texts`, at least one.
    """

    def __init__(
        self, root: Path, split: str, *, side: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Reads the split's captions; images without any are left out.

        Args:
            root: the folder that holds `annotations/` and the image folders.
            split: such as `train2017`.
            side: of the squares in pixels: the shorter side is resized to it, the middle is kept.
            cache_bytes: decoded images are kept in memory if all of them fit into this.

        Raises:
            InputError: the file is missing or damaged, or has no captioned image.
        """
        self._file = Path(root) / "annotations" / f"captions_{split}.json"
        self._folder, self.side = Path(root) / split, side
        content = read_json(self._file)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise InputError(f"{self._file}: no list 'images'; is this COCO's captions format?")
        self._images = images
        captions = read_captions(self._file)
        self._captioned = [i for i, image in enumerate(images) if self._id(i) in captions]
        if not self._captioned:
            raise InputError(f"{self._file}: no image has a caption")
        self.texts = tuple(sorted({text for texts in captions.values() for text in texts}))
        index = {text: i for i, text in enumerate(self.texts)}
        self.captions = tuple(
            tuple(index[text] for text in captions[self._id(i)]) for i in self._captioned
        )
        fits = len(self) * 3 * side * side <= cache_bytes
        self._cache: dict[int, Tensor] | None = {} if fits else None

    def __len__(self) -> int:
        return len(self._captioned)

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "B 3 S S"]:
        """The images as RGB squares.

        Raises:
            InputError: an image is missing or damaged.
        """
        return torch.stack([self._square(index) for index in indices])

    def _square(self, index: int) -> Tensor:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        square = _middle_square(self._read(index), self.side)
        if self._cache is not None:
            self._cache[index] = square
        return square

    def _read(self, index: int) -> Tensor:
        i = self._captioned[index]
        entry = self._images[i]
        name = entry.get("file_name")
        if not isinstance(name, str):
            raise InputError(f"{self._file}: images[{i}] has no 'file_name'")
        size = (entry.get("height"), entry.get("width"))
        if not all(isinstance(n, int) and n > 0 for n in size):
            raise InputError(f"{self._file}: images[{i}] has no usable 'height' and 'width'")
        return read_rgb(self._folder / safe_name(self._file, f"images[{i}]", name), size)

    def _id(self, i: int) -> int:
        image_id = self._images[i].get("id") if isinstance(self._images[i], dict) else None
        if not isinstance(image_id, int):
            raise InputError(f"{self._file}: images[{i}] has no integer 'id'")
        return image_id


def _middle_square(image: Tensor, side: int) -> Tensor:
    if image.shape[-2:] == (side, side):
        return image
    height, width = image.shape[-2:]
    smallest = min(height, width)
    top, left = (height - smallest) // 2, (width - smallest) // 2
    middle = image[None, :, top : top + smallest, left : left + smallest].float()
    resized = F.interpolate(middle, (side, side), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
