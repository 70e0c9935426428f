"""`ovseg predict`: images in, overlays, maps and masks out, one image at a time."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from ovseg_cli.device import Precision
from ovseg_cli.errors import (
    InputError,
    OvsegError,
    SomeInputsFailedError,
    UsageError,
    VocabularyError,
)
from ovseg_cli.image_sources import MAX_PIXELS, image_paths, open_image
from ovseg_cli.inference import TASKS, Task
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import Segmentation, Vocabulary
from ovseg_cli.vocabulary import parse_labels
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder
from ovseg_cli.writers import json_lines

from .model_choice import DEFAULT_RUN, TINY_LABELS, TINY_NOTICE, choose_model
from .prediction_files import RECORD_VERSION, RESULT_FOLDERS, PredictionFiles

SegmentImage = Callable[[UInt8[Tensor, "3 H W"], str], Segmentation]
Record = dict[str, Any]
ERRORS = "errors.jsonl"


@dataclass(frozen=True)
class PredictOptions:
    """What is read and written.

    Attributes:
        tasks: panoptic, instance, semantic: the files to write.
        overlays: whether to draw, too.
        recursive: take the images in a folder's folders.
        max_pixels: larger images are refused before they are decoded.
    """

    tasks: tuple[Task, ...] = ("panoptic",)
    overlays: bool = True
    recursive: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Failure:
    """An input that gave no result: what was asked for, and the sentence that says why."""

    source: str
    error: InputError


@dataclass(frozen=True)
class PredictResult:
    """What became of all inputs.

    Attributes:
        folder: where the files are.
        images: how many images were segmented.
        found: segments (or instances, or images with the class, for other tasks) of each class.
        failures: the inputs without a result.
    """

    folder: Path
    images: int
    found: dict[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def error(self) -> OvsegError | None:
        """None if all is well; the only input's error; or one that counts those that failed."""
        if not self.failures:
            return None
        first = self.failures[0]
        count = len(self.failures)
        if self.images:
            return SomeInputsFailedError(
                f"{count} of {count + self.images} inputs failed, the others are done; they are "
                f"listed in {self.folder / ERRORS} (the first: {first.error})"
            )
        if count == 1:
            return first.error
        return InputError(f"all {count} inputs failed; the first: {first.error}")


def predict(
    sources: Sequence[str],
    vocabulary: Vocabulary,
    segment: SegmentImage,
    folder: Path,
    *,
    options: PredictOptions | None = None,
    stdin: Iterable[str] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> PredictResult:
    """Segments every image of the sources and writes the results as they come.

    An input that cannot be read is recorded, and the rest goes on; nothing is written where nothing
    was segmented. JSON files and lines appear when all images are done.

    Args:
        sources: see `image_paths`.
        vocabulary: the classes that `segment` knows.
        segment: from an image (3, H, W) and its name to its results, with all of `options.tasks`.
        folder: gets overlays/, panoptic/ and panoptic.json, semantic/, instances.jsonl,
            categories.json and, where inputs failed, errors.jsonl.
        options: what is read and written.
        stdin: what the source "-" reads.
        on_record: is given a JSON-like record of each image, or of its error, as it comes.

    Raises:
        StorageError: no space left, or the folder cannot be written.
        InputError: there is no source, or the sources hold nothing but our own results.
    """
    if not sources:
        raise InputError("no images to segment; give a file, a folder, a glob, @list.txt or -")
    options = options or PredictOptions()
    failures: list[Failure] = []
    found: Counter[str] = Counter()
    images = 0
    with PredictionFiles(
        folder, vocabulary, tasks=options.tasks, overlays=options.overlays
    ) as files:
        for source, item in _inputs(sources, options, folder, stdin):
            try:
                record = _segment_one(item, segment, files, options)
            except InputError as error:
                failures.append(Failure(source, error))
                record = {"version": RECORD_VERSION, "source": source, "error": str(error)}
            else:
                images += 1
                found.update(entry["label"] for entry in record["segments"])
            if on_record:
                on_record(record)
    if not images and not failures:
        raise InputError(f"{', '.join(sources)}: nothing there but results of {folder}")
    result = PredictResult(folder, images, dict(found.most_common()), tuple(failures))
    _write_failures(result)
    return result


def predict_command(
    sources: Sequence[str],
    labels: str | None,
    *,
    run: Path = DEFAULT_RUN,
    model: str | None = None,
    tasks: Sequence[str] | None = None,
    folder: Path | None = None,
    overlays: bool = True,
    recursive: bool = False,
    max_pixels: int = MAX_PIXELS,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    on_notice: Callable[[str], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> PredictResult:
    """What `ovseg predict` does: reads the words, takes a model, segments the sources.

    Args:
        sources: see `image_paths`.
        labels: see `parse_labels`; None is the synthetic set's words, with the model in the box.
        run: the run directory.
        model: `tiny`, a run directory, or None for `run`, or the model in the box without one.
        tasks: panoptic, instance, semantic; None is panoptic.
        folder: where the results go; None is `run`/predictions.
        overlays: whether to draw, too.
        recursive: take the images in a folder's folders.
        max_pixels: larger images are refused before they are decoded.
        device: where to compute.
        precision: of the forward passes.
        on_notice: is told what a user should know about the model.
        on_record: see `predict`.

    Raises:
        OvsegError: one of its kinds, for whatever the user can mend.
    """
    options = PredictOptions(_tasks(tasks or ("panoptic",)), overlays, recursive, max_pixels)
    choice = choose_model(model, run)
    if choice.is_tiny and on_notice:
        on_notice(TINY_NOTICE)
    if labels is None and not choice.is_tiny:
        raise VocabularyError('no --labels; give words such as --labels "beer,wine glass"')
    vocabulary = parse_labels(TINY_LABELS if labels is None else labels)
    cache = None if choice.is_tiny else text_cache_folder()
    segmenter = Segmenter.from_run(choice.run, device=device, precision=precision, text_cache=cache)
    segmenter.text_embeddings(vocabulary)  # a word that is too long fails here, not image by image
    with tqdm(unit=" images", disable=None) as progress:  # on stderr, and only on a terminal

        def count(record: Record) -> None:
            progress.update()
            if on_record:
                on_record(record)

        return predict(
            sources,
            vocabulary,
            lambda image, name: segmenter.predict(
                image, vocabulary, tasks=options.tasks, name=name
            ),
            folder or run / "predictions",
            options=options,
            on_record=count,
        )


def _tasks(names: Sequence[str]) -> tuple[Task, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UsageError(f"--task {unknown[0]}: give {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in names)


def _inputs(
    sources: Sequence[str], options: PredictOptions, folder: Path, stdin: Iterable[str] | None
) -> Iterator[tuple[str, Path | InputError]]:
    """(name, path) of every image, (name, error) of every source that names none."""
    own = [os.path.join(os.path.realpath(folder), name) for name in RESULT_FOLDERS]
    for source in sources:
        try:
            for path in image_paths(source, recursive=options.recursive, stdin=stdin):
                if str(path) == source or os.path.dirname(os.path.realpath(path)) not in own:
                    yield str(path), path
        except InputError as error:
            yield source, error


def _segment_one(
    path: Path | InputError, segment: SegmentImage, files: PredictionFiles, options: PredictOptions
) -> Record:
    if isinstance(path, InputError):
        raise path
    image = open_image(path, max_pixels=options.max_pixels)
    try:
        segmentation = segment(image, str(path))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise InputError(
            f"{path}: not enough memory for {image.shape[2]} x {image.shape[1]} pixels; "
            "shrink the image or try --device cpu"
        ) from error
    return files.add(path, image, segmentation)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """PyTorch has an error of its own for this on CUDA only, elsewhere it is in the text."""
    text = str(error).lower()
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or "out of memory" in text or "can't allocate memory" in text


def _write_failures(result: PredictResult) -> None:
    """The list of what failed, beside results; a list of an earlier time goes."""
    path = result.folder / ERRORS
    if result.images and result.failures:
        with json_lines(path) as lines:
            for failure in result.failures:
                lines.add({"source": failure.source, "error": str(failure.error)})
    elif result.images:
        path.unlink(missing_ok=True)
