"""CLIP's zero-shot names for crops of annotated segments: what it knows without our parts."""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_cdt
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.pair_encoder import encode_windows, window_grid
from ovseg_cli.cosine_logits import class_logits
from ovseg_cli.errors import RecipeError
from ovseg_cli.structures import TextEmbeddings

SMALLEST = 16  # pixels: a crop of a few pixels shows nobody what it is


def name_crops(
    clip: ClipEncoder,
    texts: TextEmbeddings,
    crops: Float[Tensor, "M 3 S S"],
) -> Int[Tensor, " M"]:
    """CLIP's best class of every crop, the background left out, on the CPU.

    Crops smaller than the image tower's square are seen at its centre, as windows.

    Args:
        clip: the image tower.
        texts: one a class or more, and the background perhaps.
        crops: (M, 3, S, S) RGB, 0 to 255.
    """
    logits = class_logits(_encoded(clip, crops.to(clip.device)), texts)
    classes = logits[:, :-1] if texts.has_background else logits
    return classes.argmax(-1).cpu()


def crop_side_for(clip: ClipEncoder, side: int | None) -> int:
    """The side in pixels at which crops are seen.

    Args:
        clip: the image tower.
        side: as the recipe has it; None for the tower's own.

    Raises:
        RecipeError: it is larger than the tower's, no multiple of its patch, or not the own side of
            a ResNet, whose attention pooling sees that one alone.
    """
    if side is None or side == clip.resolution:
        return clip.resolution
    if hasattr(clip.model.visual, "attnpool"):
        raise RecipeError(
            f"[evaluate] crop_side: {side}: a ResNet's CLIP sees crops at its own "
            f"{clip.resolution} pixels alone; leave it out"
        )
    _, patch = window_grid(clip.model)
    if side > clip.resolution or side % patch or side < patch:
        raise RecipeError(
            f"[evaluate] crop_side: {side} is no multiple of the patch ({patch}) up to "
            f"{clip.resolution}, the size of this CLIP"
        )
    return side


def crop_around(
    image: UInt8[Tensor, "3 H W"],
    mask: Bool[Tensor, "H W"],
    *,
    is_thing: bool,
    scale: float,
    side: int,
) -> Float[Tensor, "3 S S"]:
    """A square that shows a segment, inside the image.

    A thing's square lies around its box and is resized; that of stuff is `side` pixels of the
    image around the place that is deepest inside.

    Args:
        image: (3, H, W) RGB.
        mask: (H, W) not empty.
        is_thing: whether it is a thing.
        scale: side of a thing's square, in longer sides of its box.
        side: of the result in pixels.
    """
    spans = _box(mask) if is_thing else _deepest(mask)
    longer = max(last - first for first, last in spans)
    wanted = max(SMALLEST, round(longer * scale)) if is_thing else side
    rows, columns = (
        _window(first + last, length, wanted)
        for (first, last), length in zip(spans, mask.shape, strict=True)
    )
    crop = image[:, rows, columns].float()
    if crop.shape[1:] == (side, side):
        return crop
    size = (side, side)
    resized = F.interpolate(crop[None], size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0]


def _encoded(clip: ClipEncoder, crops: Tensor) -> Tensor:
    side = crops.shape[-1]
    if side == clip.resolution:
        return clip.encode_image(crops)
    grid, patch_size = window_grid(clip.model)
    corner = (grid - side // patch_size) // 2
    normalised = ((crops / 255 - clip.mean) / clip.std).to(clip.model.logit_scale.dtype)
    with torch.no_grad():
        return encode_windows(clip.model, normalised, (corner, corner)).float()


def _box(mask: Tensor) -> list[tuple[int, int]]:
    spans = []
    for axis in (0, 1):
        inside = mask.any(1 - axis).nonzero().flatten()
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    return spans


def _deepest(mask: Tensor) -> list[tuple[int, int]]:
    depth = distance_transform_cdt(F.pad(mask, (1, 1, 1, 1)).cpu().numpy())[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return [(row, row + 1), (column, column + 1)]


def _window(twice_centre: int, length: int, wanted: int) -> slice:
    size = min(length, wanted)
    start = min(max((twice_centre - size) // 2, 0), length - size)
    return slice(start, start + size)
