"""ADE20K-150, ADEChallengeData2016: label maps, panoptic and instance annotations of 150 classes.

annotations/<split>/*.png             0 is other, 1 to 150 the classes
annotations_instance/<split>/*.png    red is a thing's number, 1 to 100, green its instance's
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.label_maps import (
    check_size,
    convert_map,
    read_values,
    relabelled,
    table_of,
)
from ovseg_cli.stages.prepare.panoptic import (
    category_entries,
    segments_info,
    write_panoptic_json,
    write_panoptic_png,
)
from ovseg_cli.stages.prepare.sources import Download, Prepared, optional, required
from ovseg_cli.stages.prepare.work import Job, Record, make_files, make_records
from ovseg_cli.storage import write_json
from ovseg_cli.vocabulary import builtin_vocabulary

FOLDER = "ADEChallengeData2016"
SPLITS = ("validation", "training")
CLASSES = "ade20k_150"
_SHORT = {"validation": "val", "training": "train"}
_PAGE = "http://sceneparsing.csail.mit.edu"
_INSTANCE_PAGE = "https://github.com/CSAILVision/placeschallenge"
_ARCHIVE = "ADEChallengeData2016.zip"


def prepare(folder: Path, splits: Sequence[str], workers: int) -> Prepared:
    """Makes annotations_detectron2/, ade20k_panoptic_* and ade20k_instance_*.json.

    Args:
        folder: ADEChallengeData2016.
        splits: of `SPLITS`.
        workers: processes.

    Raises:
        InputError: a download is not there, or a file is damaged; the first one is named.
        StorageError: no space left, or the folder cannot be written.
    """
    counts: dict[str, int] = {}
    left_out: list[str] = []
    for split in splits:
        required(folder, Download(f"images/{split}", _PAGE, _ARCHIVE, ".."))
        maps = required(folder, Download(f"annotations/{split}", _PAGE, _ARCHIVE, ".."))
        names = _names(maps)
        counts[f"{split} label maps"] = _label_maps(folder, split, names, workers)
        part = Download(f"annotations_instance/{split}", _INSTANCE_PAGE, "annotations_instance.tar")
        if optional(folder, part) is None:
            left_out.append(
                f"{folder / part.path}: not there, so no panoptic and instance annotations; get "
                f"annotations_instance.tar from {part.page} and put it into {folder}"
            )
        else:
            counts[f"{split} panoptic"] = _objects(folder, split, names, workers)
    return Prepared(folder, counts, tuple(left_out))


def _names(maps: Path) -> list[str]:
    names = sorted(path.stem for path in maps.glob("*.png"))
    if not names:
        raise InputError(f"{maps}: no label map in this folder; unpack {_ARCHIVE} anew")
    return names


def _label_maps(folder: Path, split: str, names: Sequence[str], workers: int) -> int:
    table = table_of({0: 255} | {value: value - 1 for value in range(1, 151)}, size=256)
    target = folder / "annotations_detectron2" / split
    jobs = [
        Job((folder / "annotations" / split / f"{name}.png",), (target / f"{name}.png",))
        for name in names
    ]
    title = f"{FOLDER} {split}: label maps"
    make_files(jobs, partial(convert_map, table=table), title=title, workers=workers)
    return len(jobs)


def _objects(folder: Path, split: str, names: Sequence[str], workers: int) -> int:
    panoptic = folder / f"ade20k_panoptic_{_SHORT[split]}.json"
    instances = folder / f"ade20k_instance_{_SHORT[split]}.json"
    if panoptic.is_file() and instances.is_file():
        return len(names)
    jobs = [
        Job(
            (
                folder / "annotations" / split / f"{name}.png",
                folder / "annotations_instance" / split / f"{name}.png",
                folder / "images" / split / f"{name}.jpg",
            ),
            (panoptic.with_suffix("") / f"{name}.png",),
        )
        for name in names
    ]
    journal = folder / f".ade20k_panoptic_{split}.jsonl"
    title = f"{FOLDER} {split}: panoptic"
    records = make_records(jobs, convert_objects, journal, title=title, workers=workers)
    write_panoptic_json(panoptic, CLASSES, records)
    _write_instances(instances, records)
    journal.unlink()
    return len(records)


def convert_objects(job: Job) -> Record:
    """Writes an image's panoptic PNG: stuff of the label map, and over it the instances.

    A thing's pixels that no instance has are void.

    Args:
        job: sources (label map, instance map, image), target the PNG.

    Raises:
        InputError: a file cannot be read, or they do not fit each other.
        StorageError: no space left, or the folder cannot be written.
    """
    map_path, objects_path, image = job.sources
    labels, objects = read_values(map_path), read_values(objects_path)
    check_size(image, labels.shape)
    if objects.shape != (*labels.shape, 3):
        raise InputError(f"{objects_path}: no RGB image of the size of {map_path}")
    is_thing = builtin_vocabulary(CLASSES).is_thing
    stuff = {v: v for v in range(1, 151) if not is_thing[v - 1]}
    table = table_of({v: 0 for v in range(151)} | stuff, size=256)
    ids = relabelled(labels, table, map_path)
    category_of = {value: value - 1 for value in stuff}
    rles = {}
    for number in np.unique(objects[..., 1][objects[..., 1] > 0]):
        mask = objects[..., 1] == number
        segment = 256 + int(number)
        category_of[segment] = _thing(objects[..., 0][mask], objects_path)
        ids[mask] = segment
        rles[segment] = _run_lengths(mask)
    write_panoptic_png(job.targets[0], ids)
    return {
        "file_name": image.name,
        "png": job.targets[0].name,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "segments_info": segments_info(ids, category_of),
        "run_lengths": rles,
    }


def _thing(numbers: np.ndarray, path: Path) -> int:
    """The class of an instance; the 100 things are numbered from 1 in the order of the classes."""
    things = [i for i, thing in enumerate(builtin_vocabulary(CLASSES).is_thing) if thing]
    number = int(numbers[0])
    if (numbers != number).any() or not 1 <= number <= len(things):
        raise InputError(f"{path}: an instance has the class {number}, or several classes")
    return things[number - 1]


def _run_lengths(mask: np.ndarray) -> dict[str, object]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def _write_instances(path: Path, records: Sequence[Record]) -> None:
    """COCO's instance annotations; an instance is a panoptic segment, so none is lost."""
    images: list[Record] = []
    annotations: list[Record] = []
    for number, record in enumerate(records, start=1):
        images.append(
            {"id": number} | {key: record[key] for key in ("file_name", "height", "width")}
        )
        rles = {int(segment): rle for segment, rle in record["run_lengths"].items()}
        for segment in record["segments_info"]:
            if segment["id"] in rles:
                annotations.append(
                    {
                        **segment,
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "segmentation": rles[segment["id"]],
                    }
                )
    things = [entry for entry in category_entries(CLASSES) if entry["isthing"]]
    write_json(path, {"images": images, "annotations": annotations, "categories": things})
