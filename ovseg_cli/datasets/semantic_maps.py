"""Semantic datasets: a folder of images, and a folder of label maps of the same names.

ADE20K's 847 classes (16 bit TIFF) and PASCAL Context's 59 (PNG) and 459 (16 bit TIFF), prepared as
MasQCLIP and MaskCLIP expect them: a pixel is its class's index, 255 or 65535 is void. COCO-Stuff,
PASCAL VOC and ADE20K's 150 classes as they are published: a pixel is its class's id, that less one,
or the index counted from one. And any folder of images beside a folder of such maps.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import read_label_map, read_rgb
from ovseg_cli.datasets.coco_files import safe_name
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Sample, Vocabulary

MAP_SUFFIXES = (".png", ".tif", ".tiff")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Values = Literal["index", "index_from_one", "id", "id_from_zero"]


def pixel_values(values: Values, ids: Sequence[int]) -> tuple[int, ...] | None:
    """What stands for each class in a label map; None for its index.

    Args:
        values: `index`; `index_from_one` (ADE20K's 150 classes, whose 0 is void); `id`, the class's
            own (PASCAL VOC, whose 0 is void, too, where the background is no class); or
            `id_from_zero` for ids that count from 1, less one (COCO-Stuff).
        ids: one a class.
    """
    if values == "index":
        return None
    if values == "index_from_one":
        return tuple(range(1, len(ids) + 1))
    return tuple(ids) if values == "id" else tuple(number - 1 for number in ids)


class SemanticMaps:
    """Images with one mask a class; they are decoded when asked for."""

    kind = "semantic"

    def __init__(
        self,
        root: Path,
        split: str,
        vocabulary: Vocabulary,
        *,
        images: str,
        maps: str,
        file: str | None = None,
        values: Sequence[int] | None = None,
    ) -> None:
        """Finds the label maps and their images.

        Args:
            root: the dataset's folder.
            split: its name, for results.
            vocabulary: the classes in the order of the maps' values.
            images: the image folder below the root.
            maps: the folder of the label maps below the root.
            file: a text file below the root with the names to read, a line each, with or without
                an ending; None for every map.
            values: of the pixels of each class, 0 to 65534, every other value is void; None for the
                class's index, every other value but void's is an error.

        Raises:
            InputError: a folder, file, map or image is missing, or there is no map at all.
        """
        self.values = None if values is None else tuple(values)
        self._class_of: Tensor | None = None
        if values is not None:
            self._class_of = torch.full((1 << 16,), -1)
            self._class_of[torch.tensor(values)] = torch.arange(len(values))
        self.root, self.split, self.vocabulary = Path(root), split, vocabulary
        self._images, self._maps = self.root / images, self.root / maps
        for folder, content in ((self._images, "images"), (self._maps, "label maps")):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; it should hold the split's {content}")
        self._is_listed = file is not None
        stems = _listed(self.root / file) if file else _stems(self._maps)
        if not stems:
            place = self.root / file if file else self._maps
            raise InputError(f"{place}: no label map; they end with {', '.join(MAP_SUFFIXES)}")
        self._files = [
            (_found(self._images, stem, IMAGE_SUFFIXES), _found(self._maps, stem, MAP_SUFFIXES))
            for stem in stems
        ]

    @property
    def name(self) -> str:
        """The dataset's folder name and split."""
        return f"{self.root.resolve().name}-{self.split}"

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """The image and a mask for each of its classes.

        Raises:
            InputError: image or map cannot be read, or a pixel is of no class.
        """
        path, label_map = self.image_path(index), self.label_map(index)
        labels = label_map.unique()
        labels = labels[labels >= 0]
        return Sample(
            image=read_rgb(path, (label_map.shape[0], label_map.shape[1])),
            image_id=index + 1,
            file_name=self.file_name(index),
            masks=label_map == labels[:, None, None],
            labels=labels,
            is_crowd=torch.zeros(len(labels), dtype=torch.bool),
        )

    def image_path(self, index: int) -> Path:
        """The image's file."""
        return self._files[index][0]

    def file_name(self, index: int) -> str:
        """The image's name below the image folder, with slashes."""
        return self.image_path(index).relative_to(self._images).as_posix()

    def images_without_map(self) -> tuple[Path, ...]:
        """Files of the image folder that no map is named after; nothing where a list is read."""
        if self._is_listed:
            return ()
        stems = {path.stem for path, _ in self._files}
        images = _files(self._images, IMAGE_SUFFIXES)
        return tuple(sorted(path for path in images if path.stem not in stems))

    def map_path(self, index: int) -> Path:
        """The label map's file."""
        return self._files[index][1]

    def label_map(self, index: int) -> Int[Tensor, "H W"]:
        """The class index of every pixel, -1 is void; the image is not read.

        Raises:
            InputError: the map cannot be read, or a pixel is of no class.
        """
        path = self.map_path(index)
        found = read_label_map(path)
        if self._class_of is not None:
            return torch.where(found < 0, -1, self._class_of[found.clamp(min=0)])
        if int(found.max()) >= len(self.vocabulary):
            raise InputError(
                f"{path}: value {int(found.max())}, but there are {len(self.vocabulary)} "
                "classes, from 0; prepare the maps for this class list"
            )
        return found


def _stems(folder: Path) -> list[str]:
    return sorted({path.stem for path in _files(folder, MAP_SUFFIXES)})


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files of a kind, without the hidden ones that macOS puts beside each."""
    for path in folder.iterdir():
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            yield path


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of images: {error}") from error
    endings = (*IMAGE_SUFFIXES, *MAP_SUFFIXES)
    places: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = safe_name(path, f"line {number}", line.strip())
        stem = name.rpartition(".")[0] if name.lower().endswith(endings) else name
        if stem in places:
            raise InputError(f"{path}: line {number}: {stem} is there already, line {places[stem]}")
        places[stem] = number
    return list(places)


def _found(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in (*suffixes, *map(str.upper, suffixes)):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise InputError(f"{folder}: no {stem} with ending {', '.join(suffixes)}")
