"""Datasets in COCO's own layout: images, panoptic or instance annotations, captions.

root/<split>/*.jpg
root/annotations/panoptic_<split>.json with root/annotations/panoptic_<split>/*.png
root/annotations/instances_<split>.json
root/annotations/captions_<split>.json     if there
root/annotations/vocabulary.json           if there: which classes are seen in training
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import instance_mask, panoptic_masks, read_rgb
from ovseg_cli.datasets.coco_files import ImageRecord, Kind, read_annotations, read_captions
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Sample, Vocabulary


class CocoDataset:
    """A split of a dataset in COCO's layout; images and masks are decoded when asked for."""

    def __init__(self, root: Path, split: str, *, annotations: Kind = "panoptic") -> None:
        """Reads and checks the split's annotation file.

        Args:
            root: the folder that holds `annotations/` and the image folders.
            split: such as `val2017`.
            annotations: `panoptic` has every pixel's segment, `instances` things alone.

        Raises:
            InputError: a file or folder is missing or damaged; the first bad entry is named.
        """
        self.root, self.split, self.kind = Path(root), split, annotations
        folder = self.root / "annotations"
        self._file = folder / f"{annotations}_{split}.json"
        if not self._file.is_file():
            raise InputError(f"{self._file}: no such file; {self._splits_there(folder)}")
        content = read_annotations(self._file, annotations, folder / "vocabulary.json")
        self.vocabulary: Vocabulary = content.vocabulary
        self.class_of: dict[int, int] = content.class_of
        self.records: tuple[ImageRecord, ...] = content.records
        self._captions = read_captions(folder / f"captions_{split}.json")
        self._images = self.root / split
        if not self._images.is_dir():
            raise InputError(f"{self._images}: no such folder; it should hold the split's images")
        self._panoptic = self._panoptic_folder(folder)

    @property
    def name(self) -> str:
        """The dataset's folder name and split, such as `coco-val2017`."""
        return f"{self.root.resolve().name}-{self.split}"

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """The image and its masks.

        Raises:
            InputError: the image or a mask cannot be read.
        """
        record = self.records[index]
        segments = record.segments
        return Sample(
            image=self.image(index),
            image_id=record.image_id,
            file_name=record.file_name,
            masks=self._masks(record),
            labels=torch.tensor(
                [self.class_of[segment["category_id"]] for segment in segments], dtype=torch.int64
            ),
            is_crowd=torch.tensor(
                [bool(segment.get("iscrowd", 0)) for segment in segments], dtype=torch.bool
            ),
            captions=self.captions(index),
        )

    def image(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """The RGB image alone, without its masks."""
        record = self.records[index]
        return read_rgb(self._images / record.file_name, record.size)

    def captions(self, index: int) -> tuple[str, ...]:
        """The sentences about an image, possibly none."""
        return self._captions.get(self.records[index].image_id, ())

    def _masks(self, record: ImageRecord) -> Tensor:
        if not record.segments:
            return torch.zeros((0, *record.size), dtype=torch.bool)
        if self.kind == "panoptic":
            ids = [segment["id"] for segment in record.segments]
            return panoptic_masks(self._panoptic / str(record.panoptic_file), ids, record.size)
        return torch.stack([self._instance(segment, record) for segment in record.segments])

    def _instance(self, segment: dict[str, object], record: ImageRecord) -> Tensor:
        try:
            return instance_mask(segment.get("segmentation"), record.size)
        except InputError as error:
            raise InputError(f"{self._file}: annotation {segment['id']}: {error}") from error

    def _panoptic_folder(self, folder: Path) -> Path:
        name = f"panoptic_{self.split}"
        found = [path for path in (folder / name, self.root / name) if path.is_dir()]
        if self.kind == "panoptic" and not found:
            raise InputError(f"{folder / name}: no such folder; it should hold the panoptic PNGs")
        return found[0] if found else folder / name

    def _splits_there(self, folder: Path) -> str:
        names = sorted(path.stem for path in folder.glob(f"{self.kind}_*.json"))
        splits = ", ".join(name.removeprefix(f"{self.kind}_") for name in names)
        return f"{self.kind} annotations are there for: {splits or 'no split'}"
