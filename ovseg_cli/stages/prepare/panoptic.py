"""COCO's panoptic files, made of segment ids."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ovseg_cli.stages.prepare.work import Job, Record, make_records
from ovseg_cli.vocabulary import builtin_ids, builtin_vocabulary
from ovseg_cli.writers import categories, panoptic_image, panoptic_json, write_png


def make_panoptic(
    file: Path,
    jobs: Sequence[Job],
    convert: Callable[[Job], Record],
    classes: str,
    *,
    title: str,
    workers: int,
) -> None:
    """Makes a split's panoptic PNGs and their file; one that is there is kept.

    Images without any segment are left out of the file.

    Args:
        file: of the annotations.
        jobs: one an image.
        convert: does a job, see `panoptic_record`.
        classes: a built-in vocabulary with the dataset's ids.
        title: of the progress bar.
        workers: processes, see `results_of`.

    Raises:
        InputError: the first image that cannot be used.
        StorageError: no space left, or the folder cannot be written.
    """
    if file.is_file():
        return
    journal = file.with_name(f".{file.stem}.jsonl")
    records = make_records(jobs, convert, journal, title=title, workers=workers)
    annotated = [record for record in records if record["segments_info"]]
    write_panoptic_json(file, classes, annotated)
    journal.unlink(missing_ok=True)


def panoptic_record(
    png: Path,
    image: str,
    ids: np.ndarray,
    category_of: dict[int, int],
    crowds: Sequence[int] = (),
) -> Record:
    """Writes an image's panoptic PNG, and tells what is in it.

    Args:
        png: where.
        image: the image's name in the annotations.
        ids: (H, W) segment ids below 2^16, 0 is void.
        category_of: the category id of every segment.
        crowds: the segments that stand for several objects.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    write_png(png, panoptic_image(torch.from_numpy(ids.astype(np.int64))))
    return {
        "file_name": image,
        "png": png.name,
        "height": ids.shape[0],
        "width": ids.shape[1],
        "segments_info": segments_info(ids, category_of, crowds),
    }


def segments_info(
    ids: np.ndarray, category_of: dict[int, int], crowds: Sequence[int] = ()
) -> list[Record]:
    """COCO's entries for the segments of an image, by ascending id.

    Args:
        ids: (H, W) segment ids below 2^16, 0 is void.
        category_of: the category id of every segment.
        crowds: the segments that stand for several objects.
    """
    areas = np.bincount(ids.ravel())
    found = np.flatnonzero(areas[1:]) + 1
    place = np.zeros(len(areas), dtype=np.int64)
    place[found] = np.arange(1, len(found) + 1)
    boxes = ndimage.find_objects(place[ids])
    return [
        {
            "id": segment,
            "category_id": category_of[segment],
            "iscrowd": int(segment in crowds),
            "area": int(areas[segment]),
            "bbox": _box(box),
        }
        for segment, box in zip(found.tolist(), boxes, strict=True)
    ]


def write_panoptic_json(path: Path, classes: str, records: Sequence[Record]) -> None:
    """Writes a split's annotations.

    Args:
        path: where.
        classes: a built-in vocabulary with the dataset's ids; all names of a class are its name.
        records: one an image: `file_name`, `height`, `width`, `png` and `segments_info`.

    Raises:
        StorageError: no space left, or the folder cannot be written.
    """
    numbers = image_ids([record["file_name"] for record in records])
    with panoptic_json(path, category_entries(classes)) as file:
        for number, record in zip(numbers, records, strict=True):
            image = {"id": number} | {key: record[key] for key in ("file_name", "height", "width")}
            file.add(
                image,
                {
                    "image_id": number,
                    "file_name": record["png"],
                    "segments_info": record["segments_info"],
                },
            )


def image_ids(names: Sequence[str]) -> list[int]:
    """The images' own numbers where all have different ones, as in COCO; else 1, 2, ...

    Args:
        names: of the images' files.
    """
    stems = [Path(name).stem for name in names]
    if all(stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def category_entries(classes: str) -> list[dict[str, Any]]:
    """COCO's categories of a built-in vocabulary; "painting, picture" is one name."""
    entries = categories(builtin_vocabulary(classes), builtin_ids(classes))
    return [{**entry, "name": ", ".join(entry["synonyms"])} for entry in entries]


def _box(box: tuple[slice, slice]) -> list[int]:
    """COCO's x, y, width, height."""
    rows, columns = box
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
