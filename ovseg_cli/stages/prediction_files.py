"""The files of `ovseg predict`: one folder, filled image by image."""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.inference import Task
from ovseg_cli.rendering import MIN_INSTANCE_SCORE, overlay
from ovseg_cli.storage import write_json
from ovseg_cli.structures import Segmentation, Vocabulary
from ovseg_cli.vocabulary import category_ids
from ovseg_cli.writers import (
    JsonLines,
    OutputNames,
    PanopticJson,
    categories,
    json_lines,
    panoptic_annotation,
    panoptic_image,
    panoptic_json,
    rle_records,
    semantic_image,
    write_png,
)

RECORD_VERSION = 1
RESULT_FOLDERS = ("overlays", "panoptic", "semantic")


class PredictionFiles(AbstractContextManager["PredictionFiles"]):
    """Writes results as they come; the folder is made with the first one.

    The JSON files appear when the block ends without an error.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        *,
        tasks: tuple[Task, ...] = ("panoptic",),
        overlays: bool = True,
    ) -> None:
        """Writes nothing yet.

        Args:
            folder: gets overlays/, panoptic/ and panoptic.json, semantic/, instances.jsonl and
                categories.json.
            vocabulary: the classes.
            tasks: the kinds of files.
            overlays: whether to draw, too.
        """
        self._folder, self._vocabulary = folder, vocabulary
        self._tasks, self._overlays = tasks, overlays
        self._ids = category_ids(vocabulary)
        self._stack = ExitStack()
        self._names = OutputNames()
        self._images = 0
        self._panoptic: PanopticJson | None = None
        self._instances: JsonLines | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def add(
        self, path: Path, image: UInt8[Tensor, "3 H W"], segmentation: Segmentation
    ) -> dict[str, Any]:
        """Writes an image's files and returns its record.

        Args:
            path: where the image came from.
            image: (3, H, W) RGB.
            segmentation: its results, one for each of the tasks.

        Raises:
            StorageError: no space left, or the folder cannot be written.
        """
        if self._images == 0:
            self._open()
        self._images += 1
        name = self._names.name_for(path)
        files = self._write(path, name, segmentation)
        if self._overlays:
            files["overlay"] = f"overlays/{name}.png"
            write_png(
                self._folder / files["overlay"], overlay(image, segmentation, self._vocabulary)
            )
        return {
            "version": RECORD_VERSION,
            "source": str(path),
            "image_id": self._images,
            "width": image.shape[2],
            "height": image.shape[1],
            "files": {kind: str(self._folder / file) for kind, file in files.items()},
            "segments": segment_records(segmentation, self._vocabulary),
        }

    def _open(self) -> None:
        classes = categories(self._vocabulary, self._ids)
        write_json(self._folder / "categories.json", classes)
        if "panoptic" in self._tasks:
            path = self._folder / "panoptic.json"
            self._panoptic = self._stack.enter_context(panoptic_json(path, classes))
        if "instance" in self._tasks:
            path = self._folder / "instances.jsonl"
            self._instances = self._stack.enter_context(json_lines(path))

    def _write(self, path: Path, name: str, segmentation: Segmentation) -> dict[str, str]:
        files: dict[str, str] = {}
        if self._panoptic and segmentation.panoptic is not None:
            files["panoptic"] = f"panoptic/{name}.png"
            picture = panoptic_image(segmentation.panoptic)
            write_png(self._folder / files["panoptic"], picture)
            self._panoptic.add(*self._panoptic_records(path, name, segmentation))
        if "semantic" in self._tasks and segmentation.semantic is not None:
            files["semantic"] = f"semantic/{name}.png"
            picture = semantic_image(segmentation.semantic, len(self._vocabulary))
            write_png(self._folder / files["semantic"], picture)
        if self._instances and segmentation.instances is not None:
            files["instances"] = "instances.jsonl"
            for record in rle_records(
                segmentation.instances,
                image_id=self._images,
                file_name=str(path),
                category_ids=self._ids,
                names=self._vocabulary.names,
            ):
                self._instances.add(record)
        return files

    def _panoptic_records(
        self, path: Path, name: str, segmentation: Segmentation
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert segmentation.panoptic is not None
        height, width = segmentation.panoptic.shape
        image = {"id": self._images, "file_name": str(path), "height": height, "width": width}
        annotation = panoptic_annotation(
            segmentation.panoptic,
            segmentation.segments,
            image_id=self._images,
            file_name=f"{name}.png",
            category_ids=self._ids,
        )
        return image, annotation


def segment_records(segmentation: Segmentation, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """What was found, for programs: panoptic segments, else instances of a score of at least one
    half, else the classes of the semantic map; a score only where there is one.
    """
    names, is_thing = vocabulary.names, vocabulary.is_thing
    if segmentation.panoptic is not None:
        rows = [(s.label, s.area, s.score) for s in segmentation.segments]
    elif segmentation.instances is not None:
        found = segmentation.instances
        areas = found.masks.flatten(1).sum(1).tolist()
        scored = zip(found.labels.tolist(), areas, found.scores.tolist(), strict=True)
        rows = [row for row in scored if row[2] >= MIN_INSTANCE_SCORE]
    elif segmentation.semantic is not None:
        areas = segmentation.semantic.flatten().bincount().tolist()
        return [
            {"label": names[label], "is_thing": is_thing[label], "area": area}
            for label, area in enumerate(areas)
            if area
        ]
    else:
        rows = []
    return [
        {"label": names[label], "is_thing": is_thing[label], "area": area, "score": round(score, 4)}
        for label, area, score in rows
    ]
