"""ADE20K's instance maps, of the Places Challenge 2017, as COCO's instance annotations.

annotations_instance/<split>/*.png    red is a thing's number, 1 to 100, green its instance's
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import read_values
from ovseg_cli.stages.prepare.panoptic import category_entries, image_ids, segments_info
from ovseg_cli.stages.prepare.work import Job, Record, make_records
from ovseg_cli.storage import write_text
from ovseg_cli.vocabulary import builtin_vocabulary

FOLDER = "ADEChallengeData2016"
CLASSES = "ade20k_150"
SHORT = {"validation": "val", "training": "train"}


@dataclass(frozen=True)
class Objects:
    """The instances of an image.

    Attributes:
        numbers: (H, W) the instance of each pixel, 0 for none.
        category_of: the category id of each instance.
    """

    numbers: np.ndarray
    category_of: dict[int, int]


def read_objects(path: Path, size: tuple[int, ...]) -> Objects:
    """Reads an instance map.

    Args:
        path: the map's.
        size: (height, width) of the image.

    Raises:
        InputError: it is missing, damaged or of another size, or an instance has no class or more
            than one.
    """
    values = read_values(path)
    if values.shape != (*size[:2], 3):
        raise InputError(f"{path}: no RGB image of {size[0]} x {size[1]} pixels")
    numbers = values[..., 1]
    pairs = np.flatnonzero(np.bincount((values[..., 0] * 256 + numbers)[numbers > 0])).tolist()
    things = [i for i, thing in enumerate(builtin_vocabulary(CLASSES).is_thing) if thing]
    found: dict[int, int] = {}
    for thing, number in (divmod(pair, 256) for pair in pairs):
        if number in found or not 1 <= thing <= len(things):
            raise InputError(f"{path}: instance {number} has the class {thing}, or several")
        found[number] = things[thing - 1]
    return Objects(numbers, found)


def make_instances(folder: Path, split: str, names: Sequence[str], workers: int) -> int:
    """Makes ade20k_instance_<split>.json; the number of images.

    Args:
        folder: ADEChallengeData2016.
        split: validation or training.
        names: of the images.
        workers: processes.

    Raises:
        InputError: a map is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    file = folder / f"ade20k_instance_{SHORT[split]}.json"
    if not file.is_file():
        maps = folder / "annotations_instance" / split
        jobs = [Job((maps / f"{name}.png",), ()) for name in names]
        journal = file.with_name(f".{file.stem}.jsonl")
        title = f"{FOLDER} {split}: instances"
        records = make_records(jobs, instances_of, journal, title=title, workers=workers)
        write_text(file, json.dumps(_coco(records)))
        journal.unlink(missing_ok=True)
    return len(names)


def instances_of(job: Job) -> Record:
    """The instances of an image as COCO's annotations, without ids.

    Args:
        job: source is the instance map.

    Raises:
        InputError: it cannot be read.
    """
    (path,) = job.sources
    values = read_values(path)
    objects = read_objects(path, values.shape)
    return {
        "file_name": f"{path.stem}.jpg",
        "height": values.shape[0],
        "width": values.shape[1],
        "annotations": [
            {**entry, "segmentation": _run_lengths(objects.numbers == entry["id"])}
            for entry in segments_info(objects.numbers, objects.category_of)
        ],
    }


def _coco(records: Sequence[Record]) -> Record:
    images: list[Record] = []
    annotations: list[Record] = []
    numbers = image_ids([record["file_name"] for record in records])
    for number, record in zip(numbers, records, strict=True):
        images.append(
            {"id": number} | {key: record[key] for key in ("file_name", "height", "width")}
        )
        for entry in record["annotations"]:
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": number})
    things = [entry for entry in category_entries(CLASSES) if entry["isthing"]]
    return {"images": images, "annotations": annotations, "categories": things}


def _run_lengths(mask: np.ndarray) -> Record:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
