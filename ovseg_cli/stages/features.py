"""`ovseg features`: what a CLIP's dense features tell apart, at several input sizes.

FC-CLIP (Yu et al., NeurIPS 2023), figure 1: k-means of the frozen image tower's last feature map,
a vision transformer beside a ConvNeXt. The former's falls apart as the input grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.checkpoints.clip_parts import clip_of
from ovseg_cli.clip.dense import DenseClip, resampled
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.loading import load_open_clip
from ovseg_cli.errors import RunError, UsageError
from ovseg_cli.image_sources import open_image
from ovseg_cli.rendering import class_color
from ovseg_cli.rendering.grids import Row, picture_grid
from ovseg_cli.run import Run
from ovseg_cli.storage import writing
from ovseg_cli.structures import Frame, FramedImage

DEFAULT_SCALES = (1.0, 1.5, 2.0, 3.0)  # of the size that a CLIP was trained at
CELL = 256  # pixels of a picture's longer side


@dataclass(frozen=True)
class ClusterMap:
    """The clusters of one CLIP's features at one input size.

    Attributes:
        size: (height, width) of CLIP's input in pixels.
        labels: (h, w) cluster of each cell of the grid.
    """

    size: tuple[int, int]
    labels: Int[np.ndarray, "h w"]


@dataclass(frozen=True)
class FeaturesResult:
    """What was drawn: the picture's path, and the maps of each CLIP by its name."""

    picture: Path
    maps: tuple[tuple[str, tuple[ClusterMap, ...]], ...]

    def as_json(self) -> dict[str, Any]:
        """CLIPs, input sizes and grids, without the clusters."""
        rows = [
            {
                "clip": name,
                "maps": [{"size": [*m.size], "grid": [*m.labels.shape]} for m in maps],
            }
            for name, maps in self.maps
        ]
        return {"picture": str(self.picture), "rows": rows}


def features(
    image: Path,
    clips: Sequence[str],
    output: Path,
    *,
    run: Path,
    sizes: Sequence[int] = (),
    clusters: int = 8,
    seed: int = 0,
    device: torch.device | None = None,
) -> FeaturesResult:
    """Draws the clusters of every CLIP at every size: a row a CLIP, a column a size.

    Args:
        image: a file.
        clips: run directories, or open_clip's `ARCHITECTURE[:PRETRAINED]`; empty for the CLIP of
            `run`.
        output: the picture.
        run: a run directory.
        sizes: shorter sides in pixels; empty for 1, 1.5, 2 and 3 times each CLIP's own.
        clusters: of each map.
        seed: of the clusters' beginnings.
        device: where the CLIPs compute.

    Raises:
        InputError: the image cannot be read.
        RunError: a run directory without a recipe or CLIP.
        CheckpointError: no such CLIP, or one without dense features.
        UsageError: a size below a cell, or with fewer cells than clusters.
        StorageError: the picture cannot be written.
    """
    pixels = open_image(image)
    maps: list[tuple[str, tuple[ClusterMap, ...]]] = []
    for title, clip in [_named(name) for name in clips] or [_of_run(run)]:
        clip.to(device or torch.device("cpu"))
        asked = sizes or [round(scale * clip.resolution) for scale in DEFAULT_SCALES]
        maps.append((title, cluster_maps(clip, pixels, asked, clusters=clusters, seed=seed)))
    picture = _drawing(pixels, maps)
    with writing(output) as temporary:
        picture.save(temporary, format="PNG")
    return FeaturesResult(output, tuple(maps))


def cluster_maps(
    clip: ClipEncoder,
    image: UInt8[Tensor, "3 H W"],
    sizes: Sequence[int],
    *,
    clusters: int = 8,
    seed: int = 0,
) -> tuple[ClusterMap, ...]:
    """k-means of a CLIP's last feature map at several input sizes, directions only.

    The largest cluster of the first map is number 0; those of each further map take the numbers of
    the most similar ones of the map before.

    Args:
        clip: any with dense features.
        image: (3, H, W) RGB.
        sizes: shorter sides in pixels; each side becomes the nearest multiple of the cells'.
        clusters: of each map, fewer where the features have fewer different directions.
        seed: of the clusters' beginnings.

    Raises:
        CheckpointError: a CLIP without dense features.
        UsageError: a size below a cell, or with fewer cells than clusters.
    """
    dense = DenseClip(clip)
    framed = _whole(image)
    fitted = [_fitted(framed, size, dense.stride, clusters) for size in sizes]
    maps: list[ClusterMap] = []
    before: np.ndarray | None = None
    for one in fitted:
        level = F.normalize(dense.encode(one).levels[-1].float(), dim=0).cpu()
        centres, labels = _clusters(level.flatten(1).T, clusters, seed)
        centres, labels = _numbered(centres, labels, before)
        before = centres
        maps.append(ClusterMap(one.frame.padded, labels.reshape(tuple(level.shape[1:]))))
    return tuple(maps)


def _named(name: str) -> tuple[str, ClipEncoder]:
    """A title and the CLIP of a run directory, or open_clip's."""
    if Path(name).is_dir():
        return _of_run(Path(name))
    architecture, _, pretrained = name.partition(":")
    title = name if pretrained else f"{name} (random weights)"
    return title, load_open_clip(architecture=architecture, pretrained=pretrained or None)


def _of_run(path: Path) -> tuple[str, ClipEncoder]:
    if not (path / "recipe.yaml").is_file():
        raise RunError(
            f"{path}: no recipe.yaml there; name a run directory with --run, or a CLIP with --clip"
        )
    run = Run(path)
    return str(path), clip_of(run, run.recipe())


def _whole(image: Tensor) -> FramedImage:
    size = (image.shape[1], image.shape[2])
    return FramedImage(image.float(), Frame(size, size, size))


def _fitted(framed: FramedImage, size: int, stride: int, clusters: int) -> FramedImage:
    if size < stride:
        raise UsageError(f"--size {size}: a cell of this CLIP's features is {stride} pixels wide")
    fitted = resampled(framed, size / min(framed.frame.padded), stride)
    height, width = (side // stride for side in fitted.frame.padded)
    if height * width < clusters:
        raise UsageError(
            f"--clusters {clusters}: at --size {size} this CLIP's features have only {height} x "
            f"{width} cells; ask for fewer clusters or a larger size"
        )
    return fitted


def _clusters(
    directions: Float[Tensor, "P C"], clusters: int, seed: int
) -> tuple[Float[np.ndarray, "k C"], Int[np.ndarray, " P"]]:
    """Centres and each cell's cluster; where cells are alike, no more clusters than differ."""
    points = directions.double().numpy()
    different = len(np.unique(points.round(6), axis=0))
    centres, labels = kmeans2(
        points,
        min(clusters, different),
        iter=30,
        minit="++",
        seed=np.random.default_rng(seed),
    )
    return centres, labels


def _numbered(
    centres: np.ndarray, labels: np.ndarray, before: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters in the order of those before, the ones without a partner last; by area at first."""
    if before is None:
        order = np.argsort(-np.bincount(labels, minlength=len(centres)), kind="stable")
    else:
        rows, columns = linear_sum_assignment(-before @ centres.T)
        partners = columns[np.argsort(rows)]
        order = np.array([*partners, *sorted(set(range(len(centres))) - set(partners.tolist()))])
    number = np.empty(len(centres), dtype=np.int64)
    number[order] = np.arange(len(centres))
    return centres[order], number[labels]


def _drawing(image: Tensor, maps: Sequence[tuple[str, tuple[ClusterMap, ...]]]) -> Image.Image:
    photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
    scale = CELL / max(photograph.size)
    cell = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
    photograph = photograph.resize(cell, Image.Resampling.BICUBIC)
    rows = [
        Row(title, [(photograph, "image"), *((_painted(m), _caption(m)) for m in found)])
        for title, found in maps
    ]
    return picture_grid(rows, cell)


def _painted(clusters: ClusterMap) -> Image.Image:
    colors = [class_color(number) for number in range(int(clusters.labels.max()) + 1)]
    return Image.fromarray(np.array(colors, dtype=np.uint8)[clusters.labels])


def _caption(clusters: ClusterMap) -> str:
    (height, width), grid = clusters.size, clusters.labels.shape
    return f"{height} x {width}, {grid[0]} x {grid[1]} cells"
