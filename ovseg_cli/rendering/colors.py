"""Colours for classes and segments, the same in every picture."""

from collections.abc import Sequence

import numpy as np

from ..structures import Segment


def class_color(label: int) -> tuple[int, int, int]:
    """The colour of a class, the same everywhere; neighbours in number are far apart in hue."""
    hue = 2 * np.pi * ((0.08 + label * 0.61803398875) % 1)
    lightness = (0.72, 0.62, 0.80)[label % 3]
    return _srgb(lightness, 0.14, hue)


def segment_colors(segments: Sequence[Segment]) -> np.ndarray:
    """(S, 3) the class's colour, a little lighter or darker for each further thing of a class."""
    colors = np.zeros((len(segments), 3))
    seen: dict[int, int] = {}
    for row, segment in enumerate(segments):
        shade = (0, -0.18, 0.22, -0.32, 0.38)[seen.get(segment.label, 0) % 5]
        seen[segment.label] = seen.get(segment.label, 0) + 1
        color = np.array(class_color(segment.label), dtype=float)
        colors[row] = color * (1 + shade) if shade < 0 else color + shade * (255 - color)
    return colors.round()


def _srgb(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """OKLCH (Ottosson, 2020) to sRGB, clipped."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.array(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    ).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(encoded * 255).astype(int).tolist()
    return red, green, blue
