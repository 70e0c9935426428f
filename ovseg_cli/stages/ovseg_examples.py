"""The batches of tuning CLIP to masked crops: random crops of masks, and which noun each shows.

OVSeg (Liang et al., CVPR 2023), section 3.3. Differs: a random crop is cut out of the image at once
and resized once, where the released trainer resizes stored crops; its mask is the pair's and not
what differs from the filling; a random crop without a pixel of the mask gives way to the whole box.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ovseg_cli.mask_encoders.crop_cutting import Crops
from ovseg_cli.mask_encoders.masked_crops import MaskedCrops
from ovseg_cli.stages.ovseg_options import OvsegOptions
from ovseg_cli.stages.ovseg_pairs import MaskedImage, Pairs
from ovseg_cli.training import distributed
from ovseg_cli.training.seeds import seed_of

READERS = 4  # threads that decode
RATIO = math.log(4 / 3)
TRIES = 10

Box = tuple[int, int, int, int]


class Batch(NamedTuple):
    """Crops with the nouns that they show, on the encoder's device.

    Attributes:
        crops: RGB, 0 to 255.
        masks: True inside.
        nouns: rows of `OvsegExamples.nouns`.
    """

    crops: Float[Tensor, "B 3 R R"]
    masks: Bool[Tensor, "B R R"]
    nouns: Int[Tensor, " B"]


class OvsegExamples:
    """The batches of a set of pairs, each a pure function of the step.

    Args:
        pairs: to learn.
        encoder: says how a mask is cropped and filled, at which size and where.
        options: the batch and its random crops.
        seed: of order and crops.
    """

    def __init__(
        self, pairs: Pairs, encoder: MaskedCrops, *, options: OvsegOptions, seed: int
    ) -> None:
        self.pairs, self.encoder, self.options, self.seed = pairs, encoder, options, seed
        names = [pairs.noun(index) for index in range(len(pairs))]
        self.nouns = tuple(dict.fromkeys(names))
        rows = {noun: row for row, noun in enumerate(self.nouns)}
        self._noun_of = torch.tensor([rows[name] for name in names])
        self._epoch, self._order = -1, torch.empty(0)

    @torch.no_grad()
    def batch_at(self, step: int) -> Batch:
        """The batch of a step, this process's part of it.

        Args:
            step: the training step.
        """
        share = self.options.batch_size // distributed.world_size()
        first = step * self.options.batch_size + distributed.rank() * share
        positions = range(first, first + share)
        indices = [self.index_at(position) for position in positions]
        with ThreadPoolExecutor(READERS) as readers:
            shown = [self._cut(region) for region in readers.map(self._region, indices, positions)]
        crops, masks = (torch.cat(parts) for parts in zip(*shown, strict=True))
        return Batch(crops, masks, self._noun_of[indices].to(crops.device))

    def index_at(self, position: int) -> int:
        """Which of the pairs stands at a position of the endless sequence of shuffled epochs.

        Args:
            position: 0 for the first pair of the first step.
        """
        epoch, place = divmod(position, len(self.pairs))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.pairs), generator=generator)
        return int(self._order[place])

    def _region(self, index: int, position: int) -> MaskedImage:
        """What a random crop of a pair shows, before it is filled and resized."""
        pixels, mask = self.pairs.read(index)
        generator = torch.Generator().manual_seed(seed_of(self.seed, position, 1))
        whole = tuple(self.encoder.boxes(mask[None])[0].tolist())
        box = random_box(
            whole,
            generator,
            least=self.options.least_crop,
            relative=self.options.crop_ratio == "relative",
        )
        return _inside(pixels, mask, box if _inside(pixels, mask, box).mask.any() else whole)

    def _cut(self, region: MaskedImage) -> Crops:
        device = self.encoder.clip.device
        mask = region.mask if self.options.masked else torch.ones_like(region.mask)
        pixels = region.pixels.to(device, non_blocking=True).float()
        box = torch.tensor([[0, 0, mask.shape[1], mask.shape[0]]], device=device)
        return self.encoder.crops(pixels, mask[None].to(device), box)


def random_box(whole: Box, generator: torch.Generator, *, least: float, relative: bool) -> Box:
    """A random part of a box, as torchvision's `RandomResizedCrop` takes it of an image.

    Args:
        whole: xyxy in pixels, right and bottom exclusive.
        generator: of the randomness.
        least: share of the box's area that the part has at least; 1 is the whole box.
        relative: whether width by height is 3/4 to 4/3 of the box's own, else 3/4 to 4/3.
    """
    if least == 1:
        return whole
    left, top, right, bottom = whole
    width, height = right - left, bottom - top
    own = width / height if relative else 1.0
    for _ in range(TRIES):
        draw = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = width * height * (least + (1 - least) * draw[0])
        ratio = own * math.exp(RATIO * (2 * draw[1] - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = (
                int(d * (free + 1)) for d, free in ((draw[2], width - w), (draw[3], height - h))
            )
            return (left + x, top + y, left + x + w, top + y + h)
    return _middle(whole, least_ratio=own * 3 / 4, largest_ratio=own * 4 / 3)


def _middle(whole: Box, *, least_ratio: float, largest_ratio: float) -> Box:
    """The largest part in the middle of a box that is not too long."""
    left, top, right, bottom = whole
    width, height = right - left, bottom - top
    w, h = min(width, round(height * largest_ratio)), min(height, round(width / least_ratio))
    w, h = max(w, 1), max(h, 1)
    x, y = left + (width - w) // 2, top + (height - h) // 2
    return (x, y, x + w, y + h)


def _inside(pixels: Tensor, mask: Tensor, box: Sequence[int]) -> MaskedImage:
    left, top, right, bottom = box
    return MaskedImage(pixels[:, top:bottom, left:right], mask[top:bottom, left:right])
