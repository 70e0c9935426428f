"""Datasets in COCO's own layout: images, panoptic or instance annotations, captions.

root/<split>/*.jpg
root/annotations/panoptic_<split>.json with root/annotations/panoptic_<split>/*.png
root/annotations/instances_<split>.json
root/annotations/captions_<split>.json     if there
root/annotations/vocabulary.json           if there: which classes are seen in training
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ovseg_cli.datasets.annotated_masks import instance_mask, panoptic_masks, read_rgb
from ovseg_cli.datasets.class_lists import ClassList, Part, restricted
from ovseg_cli.datasets.coco_files import ImageRecord, Kind, read_annotations, read_captions
from ovseg_cli.errors import InputError
from ovseg_cli.structures import Sample, Vocabulary


class CocoDataset:
    """A split of a dataset in COCO's layout; images and masks are decoded when asked for."""

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        annotations: Kind = "panoptic",
        class_list: ClassList | None = None,
        part: Part = "all",
        images: str | None = None,
        file: str | None = None,
        maps: str | None = None,
    ) -> None:
        """Reads and checks the split's annotation file.

        Args:
            root: the folder that holds `annotations/` and the image folders.
            split: such as `val2017`.
            annotations: `panoptic` has every pixel's segment, `instances` things alone.
            class_list: the classes to read, and their words; None for the file's own.
            part: of these the ones that are seen in training, or unseen; see `restricted`.
            images: the image folder below the root where it is not the split's name.
            file: the annotation file below the root where it is none of those above.
            maps: the folder of the panoptic PNGs below the root; None for one of the annotation
                file's name, beside it or in the root.

        Raises:
            InputError: a file or folder is missing or damaged; the first bad entry is named.
        """
        self.root, self.split, self.kind = Path(root), split, annotations
        folder = self.root / "annotations"
        self.file = self.root / (file or f"annotations/{annotations}_{split}.json")
        if not self.file.is_file():
            raise InputError(f"{self.file}: no such file; {self._splits_there(folder)}")
        content = read_annotations(self.file, annotations, folder / "vocabulary.json")
        if class_list is not None or part != "all":
            content = restricted(content, self.file, annotations, class_list=class_list, part=part)
        self.vocabulary: Vocabulary = content.vocabulary
        self.class_of: dict[int, int] = content.class_of
        self.records: tuple[ImageRecord, ...] = content.records
        self._captions = read_captions(folder / f"captions_{split}.json")
        self._images = self.root / (images or split)
        if not self._images.is_dir():
            raise InputError(f"{self._images}: no such folder; it should hold the split's images")
        self._panoptic = self._panoptic_folder(maps)

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
            absent=None if record.absent is None else self._classes(record.absent),
            incomplete=self._classes(record.incomplete),
        )

    def image(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """The RGB image alone, without its masks."""
        record = self.records[index]
        return read_rgb(self.image_path(index), record.size)

    def image_path(self, index: int) -> Path:
        """The image's file."""
        return self._images / self.records[index].file_name

    def panoptic_path(self, index: int) -> Path | None:
        """The panoptic PNG, None where the image has none."""
        name = self.records[index].panoptic_file
        return None if name is None else self._panoptic / name

    def marked(self, index: int, flag: str) -> Bool[Tensor, " M"]:
        """Which of an image's segments have a flag in the annotation file.

        Args:
            index: the image's.
            flag: the key of the segments' entries.
        """
        return torch.tensor([bool(s.get(flag)) for s in self.records[index].segments]).bool()

    def captions(self, index: int) -> tuple[str, ...]:
        """The sentences about an image, possibly none."""
        return self._captions.get(self.records[index].image_id, ())

    def _classes(self, category_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.class_of[i] for i in category_ids if i in self.class_of)

    def _masks(self, record: ImageRecord) -> Tensor:
        if not record.segments:
            return torch.zeros((0, *record.size), dtype=torch.bool)
        if self.kind == "panoptic":
            path = self._panoptic / str(record.panoptic_file)
            ids = [segment["id"] for segment in record.segments]
            return panoptic_masks(path, [*ids, *record.left_out], record.size)[: len(ids)]
        return torch.stack([self._instance(segment, record) for segment in record.segments])

    def _instance(self, segment: dict[str, object], record: ImageRecord) -> Tensor:
        try:
            return instance_mask(segment.get("segmentation"), record.size)
        except InputError as error:
            raise InputError(f"{self.file}: annotation {segment['id']}: {error}") from error

    def _panoptic_folder(self, maps: str | None) -> Path:
        beside = self.file.with_suffix("")
        places = (beside, self.root / beside.name) if maps is None else (self.root / maps,)
        found = [path for path in places if path.is_dir()]
        if self.kind == "panoptic" and not found:
            raise InputError(f"{places[0]}: no such folder; it should hold the panoptic PNGs")
        return found[0] if found else places[0]

    def _splits_there(self, folder: Path) -> str:
        names = sorted(path.stem for path in folder.glob(f"{self.kind}_*.json"))
        splits = ", ".join(name.removeprefix(f"{self.kind}_") for name in names)
        return f"{self.kind} annotations are there for: {splits or 'no split'}"
