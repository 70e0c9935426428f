"""The files of `ovseg predict`: one folder, filled image by image."""

import shutil
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any

from PIL import Image

from ovseg_cli.inference import Task
from ovseg_cli.rendering import MIN_INSTANCE_SCORE, overlay
from ovseg_cli.rendering.film import Film, film
from ovseg_cli.rendering.overlays import drawing_size
from ovseg_cli.storage import write_json, writing
from ovseg_cli.structures import VOID, Segmentation, Vocabulary
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

from .pictures import Failure, Picture
from .prediction_folder import CATEGORIES, ERRORS, remove_results

RECORD_VERSION = 1
_IN_MEMORY = 1 << 20  # bytes of failures, until there is a first result


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
            folder: gets overlays/, panoptic/ and panoptic.json, semantic/, instances.jsonl,
                categories.json, errors.jsonl; with the first result, those of an earlier time go.
            vocabulary: the classes.
            tasks: the kinds of files.
            overlays: whether to draw, too.
        """
        self._folder, self._vocabulary = folder, vocabulary
        self._tasks, self._overlays = tasks, overlays
        self._ids = category_ids(vocabulary)
        self._stack = ExitStack()
        self._film_stack = self._stack.enter_context(ExitStack())
        self._film: Film | None = None
        self._filmed: Path | None = None
        self._names = self._stack.enter_context(closing(OutputNames()))
        waiting = SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115
        self._failures = self._stack.enter_context(waiting)
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

    def add(self, picture: Picture, segmentation: Segmentation) -> dict[str, Any]:
        """Writes a picture's files and returns its record.

        Args:
            picture: what was segmented.
            segmentation: its results, one for each of the tasks.

        Raises:
            StorageError: no space left, or the folder cannot be written.
        """
        if self._images == 0:
            self._open()
        self._images += 1
        name = self._names.name_for(picture.stem)
        files = self._write(picture, name, segmentation)
        if self._overlays:
            files["overlay"] = f"overlays/{name}.png"
            drawing = overlay(picture.image, segmentation, self._vocabulary)
            write_png(self._folder / files["overlay"], drawing)
            self._add_to_film(picture, drawing)
        return {
            "version": RECORD_VERSION,
            **_origin(picture),
            "image_id": self._images,
            "width": picture.image.shape[2],
            "height": picture.image.shape[1],
            "files": {kind: str(self._folder / file) for kind, file in files.items()},
            "segments": segment_records(segmentation, self._vocabulary),
        }

    def add_failure(self, failure: Failure) -> None:
        """Keeps a failure for errors.jsonl, which appears with the JSON files.

        Raises:
            StorageError: no space left.
        """
        lines = JsonLines(self._failures, self._folder / ERRORS)
        lines.add(failure.as_json())

    def _open(self) -> None:
        remove_results(self._folder)
        classes = categories(self._vocabulary, self._ids)
        write_json(self._folder / CATEGORIES, classes)
        self._stack.push(self._write_failures)
        if "panoptic" in self._tasks:
            path = self._folder / "panoptic.json"
            self._panoptic = self._stack.enter_context(panoptic_json(path, classes))
        if "instance" in self._tasks:
            path = self._folder / "instances.jsonl"
            self._instances = self._stack.enter_context(json_lines(path))

    def _write(self, picture: Picture, name: str, segmentation: Segmentation) -> dict[str, str]:
        files: dict[str, str] = {}
        if self._panoptic and segmentation.panoptic is not None:
            files["panoptic"] = f"panoptic/{name}.png"
            write_png(self._folder / files["panoptic"], panoptic_image(segmentation.panoptic))
            self._panoptic.add(*self._panoptic_records(picture, name, segmentation))
        if "semantic" in self._tasks and segmentation.semantic is not None:
            files["semantic"] = f"semantic/{name}.png"
            classes = semantic_image(segmentation.semantic, len(self._vocabulary))
            write_png(self._folder / files["semantic"], classes)
        if self._instances and segmentation.instances is not None:
            files["instances"] = "instances.jsonl"
            for record in rle_records(
                segmentation.instances,
                image_id=self._images,
                file_name=picture.name,
                category_ids=self._ids,
                names=self._vocabulary.names,
            ):
                self._instances.add(record)
        return files

    def _panoptic_records(
        self, picture: Picture, name: str, segmentation: Segmentation
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert segmentation.panoptic is not None
        height, width = segmentation.panoptic.shape
        image = {"id": self._images, "file_name": picture.name, "height": height, "width": width}
        annotation = panoptic_annotation(
            segmentation.panoptic,
            segmentation.segments,
            image_id=self._images,
            file_name=f"{name}.png",
            category_ids=self._ids,
        )
        return {**image, **(_origin(picture) if picture.frame is not None else {})}, annotation

    def _add_to_film(self, picture: Picture, drawing: Image.Image) -> None:
        """A video's drawings, without their legends, as a video beside them."""
        if picture.path is not self._filmed:  # a video that is given twice is two
            self._film_stack.close()
            self._filmed, self._film = picture.path, None
            if picture.rate is not None:
                path = self._folder / "overlays" / f"{self._names.name_for(picture.path.stem)}.mp4"
                self._film = self._film_stack.enter_context(film(path, picture.rate))
        if self._film is not None:
            self._film.add(drawing.crop((0, 0, *drawing_size(*picture.image.shape[1:]))))

    def _write_failures(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._failures.tell():
            with writing(self._folder / ERRORS) as path, path.open("w", encoding="utf-8") as file:
                self._failures.seek(0)
                shutil.copyfileobj(self._failures, file)


def _origin(picture: Picture) -> dict[str, Any]:
    """Where a record's picture came from."""
    if picture.frame is None:
        return {"source": str(picture.path)}
    seconds = None if picture.seconds is None else round(picture.seconds, 3)
    return {"source": str(picture.path), "frame": picture.frame, "seconds": seconds}


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
        labels = segmentation.semantic
        areas = labels[labels != VOID].bincount().tolist()
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
