"""A large image, segmented window by window and joined into one result.

The networks see one window at a time. What is kept is the maps, and of instances what is in their
boxes.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.segmenter.joined_instances import JoinedInstances
from ovseg_cli.segmenter.joined_panoptic import JoinedPanoptic
from ovseg_cli.segmenter.windows import windows
from ovseg_cli.structures import Segmentation

LEAST_SIDE = 32


def segment_in_windows(
    image: UInt8[Tensor, "3 H W"],
    segment: Callable[[UInt8[Tensor, "3 h w"]], Segmentation],
    *,
    side: int,
    top_k: int,
) -> Segmentation:
    """The segmentation of an image whose windows are segmented one after the other.

    An image that is one window gives what `segment` gives. Otherwise the class of a pixel is that
    of the window it is in the middle of; things of one class are one segment, or one instance,
    where they overlap by more than half of their union in the strip that two windows share; stuff
    of one class is one segment.

    Args:
        image: (3, H, W) RGB.
        segment: what is done to a window (3, h, w); always with the same results.
        side: of a window, in pixels; at least `LEAST_SIDE`.
        top_k: most instances of the image.

    Raises:
        ValueError: the side is too small.
    """
    if side < LEAST_SIDE:
        raise ValueError(f"windows of {side} pixels: at least {LEAST_SIDE} are needed")
    size = (image.shape[1], image.shape[2])
    places = list(windows(size, side))
    if len(places) == 1:
        return segment(image)
    panoptic, instances = JoinedPanoptic(size), JoinedInstances(size)
    semantic = torch.zeros(size, dtype=torch.int64)
    done = Segmentation()
    for window in places:
        done = segment(image[:, *window.region].contiguous())
        if done.panoptic is not None:
            panoptic.add(window, done.panoptic, done.segments)
        if done.semantic is not None:
            semantic[window.own] = done.semantic[window.inside(window.own)]
        if done.instances is not None:
            instances.add(window, done.instances)
    ids, segments = panoptic.result() if done.panoptic is not None else (None, ())
    return replace(
        done,
        panoptic=ids,
        segments=segments,
        semantic=None if done.semantic is None else semantic,
        instances=None if done.instances is None else instances.result(top_k),
    )
