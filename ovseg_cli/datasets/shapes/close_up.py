"""Close-ups: a square around one thing of a scene, with what is still to be seen in it."""

from dataclasses import replace

import numpy as np
from PIL import Image

from .scene import Region, Scene

ZOOM = (1.0, 1.7)  # side of the square in longer sides of the thing's box
STILL_SEEN = 0.6  # of a thing's visible area
MIN_STUFF = 0.12  # of the close-up


def close_up(rng: np.random.Generator, scene: Scene, size: int) -> Scene:
    """A square around a thing, or anywhere in a scene without any, resized to `size` pixels.

    Other things stay where most of them is in it, stuff where there is a good part of it.

    Args:
        rng: the only source of chance.
        scene: at least `size` pixels a side.
        size: side of the result in pixels.
    """
    whole = scene.image.shape[0]
    main = scene.things[rng.integers(len(scene.things))] if scene.things else None
    left, top, side = _square(rng, main, whole, size)
    window = (slice(top, top + side), slice(left, left + side))
    picture = Image.fromarray(scene.image[window]).resize((size, size), Image.Resampling.BILINEAR)
    things = [_cut(thing, window, left, top) for thing in scene.things]
    seen = [
        cut
        for thing, cut in zip(scene.things, things, strict=True)
        if thing is main or cut.mask.sum() >= STILL_SEEN * thing.mask.sum()
    ]
    stuff = [_cut(region, window, left, top) for region in scene.stuff]
    kept = [region for region in stuff if region.mask.sum() >= MIN_STUFF * side * side]
    return Scene(np.asarray(picture), tuple(seen), tuple(kept))


def _square(
    rng: np.random.Generator, main: Region | None, whole: int, size: int
) -> tuple[int, int, int]:
    side, x, y = float(size), rng.uniform(0, whole), rng.uniform(0, whole)
    if main is not None:
        ys, xs = np.flatnonzero(main.mask.any(axis=1)), np.flatnonzero(main.mask.any(axis=0))
        longer = 1 + max(xs[-1] - xs[0], ys[-1] - ys[0])
        side = longer * rng.uniform(*ZOOM)
        x = (xs[0] + xs[-1] + 1) / 2 + rng.uniform(-0.1, 0.1) * side
        y = (ys[0] + ys[-1] + 1) / 2 + rng.uniform(-0.1, 0.1) * side
    rounded = int(np.clip(round(side), 12, whole))
    left, top = (int(np.clip(round(v - rounded / 2), 0, whole - rounded)) for v in (x, y))
    return left, top, rounded


def _cut(region: Region, window: tuple[slice, slice], left: int, top: int) -> Region:
    center = (region.center[0] - left, region.center[1] - top)
    return replace(region, mask=region.mask[window], size="", center=center)
