"""`ovseg predict`: images in, overlays, maps and masks out, one image at a time."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
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
from ovseg_cli.image_sources import MAX_PIXELS
from ovseg_cli.inference import TASKS, Task
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import Segmentation, Vocabulary
from ovseg_cli.vocabulary import parse_labels
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder

from .model_choice import DEFAULT_RUN, TINY_LABELS, choose_model
from .pictures import Failure, Picture, ReadOptions, pictures
from .prediction_files import RECORD_VERSION, PredictionFiles
from .prediction_folder import ERRORS, check_folder, has_results
from .prediction_report import PredictionPage
from .pull_model import Consent, nobody
from .segment_options import segment_options

SegmentImage = Callable[[UInt8[Tensor, "3 H W"], str], Segmentation]
Record = dict[str, Any]
_KEPT_FAILURES = 20


@dataclass(frozen=True)
class PredictOptions:
    """What is read and written.

    Attributes:
        tasks: panoptic, instance, semantic: the files to write.
        overlays: whether to draw, too.
        read: which pictures are taken.
        overwrite: whether the results of an earlier time in the folder are replaced.
    """

    tasks: tuple[Task, ...] = ("panoptic",)
    overlays: bool = True
    read: ReadOptions = field(default_factory=ReadOptions)
    overwrite: bool = False


@dataclass(frozen=True)
class PredictResult:
    """What became of all inputs.

    Attributes:
        folder: where the files are.
        images: how many images and frames were segmented.
        found: segments (or instances, or images with the class, for other tasks) of each class.
        failed: how many inputs gave no result, or not all of it.
        failures: the first of them; errors.jsonl has them all.
    """

    folder: Path
    images: int
    found: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    failures: tuple[Failure, ...] = ()

    def error(self) -> OvsegError | None:
        """None if all is well; the only input's error; or one that counts those that failed."""
        if not self.failures:
            return None
        first = self.failures[0].error
        if self.images:
            return SomeInputsFailedError(
                f"{self.failed} of {self.failed + self.images} inputs failed, the others are done; "
                f"they are listed in {self.folder / ERRORS} (the first: {first})"
            )
        if self.failed == 1:
            return InputError(first)
        return InputError(f"all {self.failed} inputs failed; the first: {first}")


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
        UsageError: the folder has results of an earlier time that shall not be replaced.
        InputError: there is no source, or the sources hold nothing but our own results.
    """
    if not sources:
        raise InputError("no images to segment; give a file, a folder, a glob, @list.txt or -")
    options = options or PredictOptions()
    check_folder(folder, overwrite=options.overwrite)
    failures: list[Failure] = []
    found: Counter[str] = Counter()
    images = failed = 0
    with PredictionFiles(
        folder, vocabulary, tasks=options.tasks, overlays=options.overlays
    ) as files:
        for picture in pictures(sources, options.read, results=folder, stdin=stdin):
            outcome = _outcome(picture, segment, files)
            if isinstance(outcome, Failure):
                failed += 1
                failures += [outcome] if failed <= _KEPT_FAILURES else []
                files.add_failure(outcome)
                outcome = {"version": RECORD_VERSION, **outcome.as_json()}
            else:
                images += 1
                found.update(entry["label"] for entry in outcome["segments"])
            if on_record:
                on_record(outcome)
    if not images and not failed:
        raise InputError(f"{', '.join(sources)}: nothing there but results of {folder}")
    return PredictResult(folder, images, dict(found.most_common()), failed, tuple(failures))


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
    every: int = 1,
    overwrite: bool = False,
    background: str = "none",
    score_threshold: float | None = None,
    tile: int | None = None,
    report: bool = True,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    consent: Consent = nobody,
    on_notice: Callable[[str], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> PredictResult:
    """What `ovseg predict` does: reads the words, takes a model, segments the sources.

    Args:
        sources: see `image_paths`.
        labels: see `parse_labels`; None is the synthetic set's words, with the model in the box.
        run: the run directory.
        model: `tiny`, a name of the catalogue, a run directory, or None, see `choose_model`.
        tasks: panoptic, instance, semantic; None is panoptic.
        folder: where the results go; None is `run`/predictions, which has the last results only.
        overlays: whether to draw, too.
        recursive: take the images in a folder's folders.
        max_pixels: larger images are refused before they are decoded.
        every: of a video the first frame and each `every`-th after it.
        overwrite: replace the results of an earlier time in `folder`.
        background: see `Segmenter.predict`, as the next two.
        score_threshold: instead of the recipe's.
        tile: the side of windows in pixels.
        report: also write report.html, a page of what was found.
        device: where to compute.
        precision: of the forward passes.
        consent: is asked before a model is downloaded.
        on_notice: is told what a user should know about the model.
        on_record: see `predict`.

    Raises:
        OvsegError: one of its kinds, for whatever the user can mend.
    """
    asked = segment_options(background, score_threshold, tile)
    read = ReadOptions(recursive, max_pixels, every)
    overwrite = overwrite or folder is None
    options = PredictOptions(_tasks(tasks or ("panoptic",)), overlays, read, overwrite=overwrite)
    folder = folder or run / "predictions"
    check_folder(folder, overwrite=overwrite)
    if has_results(folder) and on_notice:
        on_notice(f"{folder}: the results of an earlier predict are replaced")
    vocabulary = parse_labels(TINY_LABELS if labels is None else labels)
    choice = choose_model(model, run, consent=consent, has_words=labels is not None)
    if choice.notice and on_notice:
        on_notice(choice.notice)
    if labels is None and not choice.is_tiny:
        raise VocabularyError('no --labels; give words such as --labels "beer,wine glass"')
    cache = None if choice.is_tiny else text_cache_folder()
    segmenter = Segmenter.from_run(choice.run, device=device, precision=precision, text_cache=cache)
    classes = segmenter.classes(vocabulary, asked.background)
    segmenter.text_embeddings(classes)  # a word that is too long fails here, not image by image
    page = PredictionPage(folder, vocabulary.names)
    with tqdm(unit=" images", disable=None) as progress:  # on stderr, and only on a terminal

        def count(record: Record) -> None:
            progress.update()
            if report:
                page.add(record)
            if on_record:
                on_record(record)

        result = predict(
            sources,
            vocabulary,
            lambda image, name: segmenter.predict(
                image, vocabulary, tasks=options.tasks, name=name, **asdict(asked)
            ),
            folder,
            options=options,
            on_record=count,
        )
    if report:
        where = "the one in the box" if choice.is_tiny else str(choice.run.path)
        page.write({"model": where, "device": str(device or "cpu"), "precision": precision})
    return result


def _tasks(names: Sequence[str]) -> tuple[Task, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UsageError(f"--task {unknown[0]}: give {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in names)


def _outcome(
    picture: Picture | Failure, segment: SegmentImage, files: PredictionFiles
) -> Record | Failure:
    """The record of a picture's results, which are written, or why there are none."""
    if isinstance(picture, Failure):
        return picture
    try:
        segmentation = segment(picture.image, picture.name)
    except InputError as error:
        return Failure(str(picture.path), str(error), picture.frame)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        height, width = picture.image.shape[1:]
        text = (
            f"{picture.name}: not enough memory for {width} x {height} pixels; "
            "give --tile 1024, shrink the image or try --device cpu"
        )
        return Failure(str(picture.path), text, picture.frame)
    return files.add(picture, segmentation)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """PyTorch has an error of its own for this on CUDA only, elsewhere it is in the text."""
    text = str(error).lower()
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or "out of memory" in text or "can't allocate memory" in text
